package domain

import (
	"maps"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"vdsm-agent/internal/code"
)

// Words of volume metadata.
const (
	FormatCOW = "COW"
	FormatRaw = "RAW"

	Legal   = "LEGAL"
	Illegal = "ILLEGAL"
	Fake    = "FAKE" // a backup domain's template that is not there

	Leaf     = "LEAF"
	Internal = "INTERNAL"
	Shared   = "SHARED" // a template; hard-linked into the images derived from it

	Sparse       = "SPARSE"
	Preallocated = "PREALLOCATED"
)

// Bounds of volume metadata.
const (
	MaxMetaSize    = 512 // bytes of a .meta file, its EOF line included
	MaxDescription = 210 // characters; what is longer is cut
	MaxGeneration  = 999 // then 0 again
	MaxSequence    = 1<<32 - 1

	mergingKey = "MERGING"

	maxCTime = 253402300799 // the last second of the year 9999
)

// VolumeMeta is what a volume's .meta file says.
type VolumeMeta struct {
	Capacity    int64     // CAP: virtual size in bytes
	CTime       time.Time // CTIME: UTC, whole seconds
	Description string    // DESCRIPTION: engines write JSON in it; one line
	DiskType    string    // DISKTYPE: DATA, ISOF, …
	Domain      string    // DOMAIN
	Format      string    // FORMAT: COW, RAW
	Generation  int       // GEN: 0…MaxGeneration
	Image       string    // IMAGE: in a template's hard link, the template's image
	Legality    string    // LEGALITY: LEGAL, ILLEGAL, FAKE
	PUUID       string    // PUUID: the parent volume; BlankUUID = none
	Sequence    int64     // SEQ: 0…MaxSequence
	Type        string    // TYPE: SPARSE, PREALLOCATED, in old ones UNKNOWN
	VolType     string    // VOLTYPE: LEAF, INTERNAL, SHARED
	// Merging (MERGING=1, ours; there is no such key otherwise) says why a volume is ILLEGAL: its child was being merged into it. What it
	// holds itself is of no use until that is completed; through the child a guest reads what it always has.
	Merging bool

	Unknown map[string]string // keys that are none of the above; written back as they are
}

// ParseVolumeMeta reads a .meta file.
//
//   - A key that VDSM insists on is missing, or a number is none: 207, naming the key.
//   - GEN and SEQ missing: 0. SIZE (512-byte blocks, before version 5) stands in for CAP; MTIME is dropped.
//   - A record that was cleared (NONE=…): 207.
//   - Words are not checked, so that a volume with a word of the future can still be seen.
func ParseVolumeMeta(data []byte) (VolumeMeta, error) {
	keys := parseLines(data, true)
	if _, cleared := keys["NONE"]; cleared {
		return VolumeMeta{}, code.Errorf(code.VolumeMetadataRead, "the volume metadata was cleared; the volume was being deleted")
	}
	p := metaParser{keys: keys}
	m := VolumeMeta{
		Description: p.text("DESCRIPTION"),
		DiskType:    p.text("DISKTYPE"),
		Domain:      p.text("DOMAIN"),
		Format:      p.text("FORMAT"),
		Image:       p.text("IMAGE"),
		Legality:    p.text("LEGALITY"),
		PUUID:       p.text("PUUID"),
		Type:        p.text("TYPE"),
		VolType:     p.text("VOLTYPE"),
		CTime:       time.Unix(p.number("CTIME", maxCTime), 0).UTC(),
		Generation:  int(p.optional("GEN", MaxGeneration)),
		Sequence:    p.optional("SEQ", MaxSequence),
	}
	merging, marked := keys[mergingKey]
	m.Merging = marked && merging == "1"
	delete(keys, mergingKey)
	if _, old := keys["CAP"]; !old && p.has("SIZE") {
		m.Capacity = p.number("SIZE", 1<<54-1) * 512
	} else {
		m.Capacity = p.number("CAP", 1<<63-1)
	}
	delete(keys, "SIZE")
	delete(keys, "MTIME")
	for key := range keys { // what no writer can write back
		if key == "" || strings.HasPrefix(key, "EOF") || strings.ContainsRune(key, 0) || strings.ContainsRune(keys[key], 0) {
			delete(keys, key)
		}
	}
	if len(keys) > 0 {
		m.Unknown = keys
	}
	return m, p.err
}

// metaParser keeps the first error, so that the fields can be read one after the other.
type metaParser struct {
	keys map[string]string
	err  error
}

func (p *metaParser) has(key string) bool { _, ok := p.keys[key]; return ok }

func (p *metaParser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = code.Errorf(code.VolumeMetadataRead, format, args...)
	}
}

func (p *metaParser) text(key string) string {
	value, ok := take(p.keys, key)
	if !ok {
		p.fail("the volume metadata has no %s; it is damaged", key)
	}
	if strings.ContainsRune(value, 0) {
		p.fail("the volume metadata has a NUL in %s; it is damaged", key)
	}
	return value
}

func (p *metaParser) number(key string, max int64) int64 {
	value := p.text(key)
	n, err := strconv.ParseInt(value, 10, 64)
	if p.err == nil && (err != nil || n < 0 || n > max) {
		p.fail("the volume metadata has %s=%s, which is no number from 0 to %d; it is damaged", key, value, max)
	}
	return n
}

func (p *metaParser) optional(key string, max int64) int64 {
	if !p.has(key) {
		return 0
	}
	return p.number(key, max)
}

// Encode returns the .meta file: sorted keys, ended by EOF, as version 5 wants it.
//
//   - Longer than MaxMetaSize: 756.
//   - A number out of its bounds, a value that is not one line: 1000.
//   - A description longer than MaxDescription characters is cut; blanks around it are dropped, as every reader does.
func (m VolumeMeta) Encode() ([]byte, error) {
	switch {
	case m.Capacity < 0:
		return nil, code.Errorf(code.InvalidParameter, "a volume's capacity cannot be %d", m.Capacity)
	case m.Generation < 0 || m.Generation > MaxGeneration:
		return nil, code.Errorf(code.InvalidParameter, "a volume's generation must be 0 to %d, not %d", MaxGeneration, m.Generation)
	case m.Sequence < 0 || m.Sequence > MaxSequence:
		return nil, code.Errorf(code.InvalidParameter, "a volume's sequence must be 0 to %d, not %d", int64(MaxSequence), m.Sequence)
	case m.CTime.Unix() < 0 || m.CTime.Unix() > maxCTime:
		return nil, code.Errorf(code.InvalidParameter, "a volume cannot have been created at %s", m.CTime)
	}
	keys := make(map[string]string, 13+len(m.Unknown))
	maps.Copy(keys, m.Unknown)
	maps.Copy(keys, map[string]string{
		"CAP":         strconv.FormatInt(m.Capacity, 10),
		"CTIME":       strconv.FormatInt(m.CTime.Unix(), 10),
		"DESCRIPTION": cutDescription(m.Description),
		"DISKTYPE":    m.DiskType,
		"DOMAIN":      m.Domain,
		"FORMAT":      m.Format,
		"GEN":         strconv.Itoa(m.Generation),
		"IMAGE":       m.Image,
		"LEGALITY":    m.Legality,
		"PUUID":       m.PUUID,
		"SEQ":         strconv.FormatInt(m.Sequence, 10),
		"TYPE":        m.Type,
		"VOLTYPE":     m.VolType,
	})
	if m.Merging {
		keys[mergingKey] = "1"
	}
	lines, err := sortedLines(keys)
	if err != nil {
		return nil, err
	}
	data := []byte(strings.Join(lines, "\n") + "\nEOF\n")
	if len(data) > MaxMetaSize {
		return nil, code.Errorf(code.MetadataOverflow, "the volume metadata would take %d bytes of %d; shorten the description",
			len(data), MaxMetaSize)
	}
	return data, nil
}

// HasParent answers whether the volume has a backing volume.
func (m VolumeMeta) HasParent() bool { return m.PUUID != BlankUUID && m.PUUID != "" }

func cutDescription(s string) string {
	s = strings.Trim(s, blank)
	if utf8.RuneCountInString(s) <= MaxDescription {
		return s
	}
	n := 0
	for i := range s {
		if n == MaxDescription {
			return strings.TrimRight(s[:i], blank)
		}
		n++
	}
	return s
}
