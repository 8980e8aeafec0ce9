package domain

import (
	"path"
	"strings"

	"vdsm-agent/internal/code"
)

// BlankUUID is the parent of a volume that has none.
const BlankUUID = "00000000-0000-0000-0000-000000000000"

// Names in a domain. All but images and dom_md are ours.
const (
	imagesDir    = "images"
	mdDir        = "dom_md"
	metadataFile = "dom_md/metadata"
	idsFile      = "dom_md/ids"
	tasksDir     = "master/tasks"
	agentDir     = ".vdsm-agent"
	tmpDir       = ".vdsm-agent/tmp"
	trashDir     = ".vdsm-agent/trash"
	locksDir     = ".vdsm-agent/locks"
	claimFile    = ".vdsm-agent/claim"
	reserveFile  = ".vdsm-agent/reserve"
)

// Modes of what is created, as VDSM's come out under its umask.
const (
	dirMode  = 0o755
	metaMode = 0o644
	dataMode = 0o660
)

// Endings of a volume's files. The data file has none.
const (
	metaSuffix  = ".meta"
	leaseSuffix = ".lease" // only where the domain's type has volume leases; taken along wherever one is found
)

// volumeSuffixes is in the order in which a volume appears: what makes VDSM list it comes last. It goes the other way.
var volumeSuffixes = []string{"", leaseSuffix, metaSuffix}

func imageDir(img string) string        { return path.Join(imagesDir, img) }
func volumeFile(img, vol string) string { return path.Join(imagesDir, img, vol) }
func metaFile(img, vol string) string   { return volumeFile(img, vol) + metaSuffix }
func isMeta(name string) (string, bool) { return strings.CutSuffix(name, metaSuffix) }
func checkUUIDs(pairs ...string) error {
	for i := 0; i < len(pairs); i += 2 {
		if !isUUID(pairs[i+1]) {
			return code.Errorf(code.InvalidParameter, "%q is no %s id; give a UUID in lower case", pairs[i+1], pairs[i])
		}
	}
	return nil
}

// isUUID accepts 8-4-4-4-12 lower-case hexadecimal digits: exactly what VDSM takes for one.
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case (c < '0' || c > '9') && (c < 'a' || c > 'f'):
			return false
		}
	}
	return true
}
