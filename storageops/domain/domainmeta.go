package domain

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"unicode/utf8"

	"vdsm-agent/internal/code"
)

// Version is the domain version that can be created and changed here. Older ones can be read.
const Version = 5

const checksumKey = "_SHA_CKSUM"

// DomainMeta is what dom_md/metadata says.
type DomainMeta struct {
	UUID       string   // SDUUID
	Name       string   // DESCRIPTION
	Type       string   // TYPE: LOCALFS, NFS, …
	Class      string   // CLASS: Data, Iso, Backup
	Role       string   // ROLE: Regular, Master
	Version    int      // VERSION
	Pools      []string // POOL_UUID
	RemotePath string   // REMOTE_PATH
	BlockSize  int      // BLOCK_SIZE in bytes; 512 where it is missing (before version 5)
	Alignment  int      // ALIGNMENT in bytes; 1 MiB where it is missing

	// Other keys, written back as they are: lease parameters, and on a master domain those of the pool.
	Other map[string]string
}

// ParseDomainMeta reads dom_md/metadata. A wrong checksum is 752; none is trusted, as VDSM does. A key that is missing
// or a number that is none is 362, naming it.
func ParseDomainMeta(data []byte) (DomainMeta, error) {
	if !utf8.Valid(data) {
		return DomainMeta{}, code.Errorf(code.DomainMetadata, "the domain metadata is not UTF-8; it is damaged")
	}
	keys := parseLines(data, false)
	if declared, ok := take(keys, checksumKey); ok {
		lines, err := sortedLines(keys)
		if err != nil {
			return DomainMeta{}, code.Errorf(code.DomainMetadata, "the domain metadata is damaged: %w", err)
		}
		if sum := checksum(lines); sum != declared {
			return DomainMeta{}, code.Errorf(code.MetadataSealBroken,
				"the checksum in the domain metadata is %s but its lines give %s; it is damaged or was edited by hand", declared, sum)
		}
	}
	m := DomainMeta{BlockSize: 512, Alignment: 1 << 20}
	for key, field := range map[string]*string{
		"SDUUID": &m.UUID, "DESCRIPTION": &m.Name, "TYPE": &m.Type, "CLASS": &m.Class, "ROLE": &m.Role, "REMOTE_PATH": &m.RemotePath,
	} {
		value, ok := take(keys, key)
		if !ok {
			return DomainMeta{}, code.Errorf(code.DomainMetadata, "the domain metadata has no %s; it is damaged", key)
		}
		*field = value
	}
	for key, field := range map[string]*int{"VERSION": &m.Version, "BLOCK_SIZE": &m.BlockSize, "ALIGNMENT": &m.Alignment} {
		value, ok := take(keys, key)
		if !ok && key != "VERSION" {
			continue
		}
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 {
			return DomainMeta{}, code.Errorf(code.DomainMetadata, "the domain metadata has %s=%s, which is no number; it is damaged",
				key, value)
		}
		*field = n
	}
	pools, _ := take(keys, "POOL_UUID")
	for pool := range strings.SplitSeq(pools, ",") {
		if pool = strings.Trim(pool, blank); pool != "" {
			m.Pools = append(m.Pools, pool)
		}
	}
	if len(keys) > 0 {
		m.Other = keys
	}
	return m, nil
}

// Encode returns dom_md/metadata with its checksum. A value that is not one line is 1000.
func (m DomainMeta) Encode() ([]byte, error) {
	keys := make(map[string]string, 10+len(m.Other))
	maps.Copy(keys, m.Other)
	maps.Copy(keys, map[string]string{
		"SDUUID":      m.UUID,
		"DESCRIPTION": strings.Trim(m.Name, blank),
		"TYPE":        m.Type,
		"CLASS":       m.Class,
		"ROLE":        m.Role,
		"VERSION":     strconv.Itoa(m.Version),
		"POOL_UUID":   strings.Join(m.Pools, ","),
		"REMOTE_PATH": m.RemotePath,
		"BLOCK_SIZE":  strconv.Itoa(m.BlockSize),
		"ALIGNMENT":   strconv.Itoa(m.Alignment),
	})
	delete(keys, checksumKey)
	lines, err := sortedLines(keys)
	if err != nil {
		return nil, err
	}
	for _, line := range lines {
		if !utf8.ValidString(line) {
			return nil, code.Errorf(code.InvalidParameter, "the domain metadata %q is not UTF-8", line)
		}
	}
	var b bytes.Buffer
	for _, line := range append(lines, checksumKey+"="+checksum(lines)) {
		b.WriteString(line)
		b.WriteByte('\n')
	}
	return b.Bytes(), nil
}

// checksum is SHA-1 over the lines one after the other, all that is not ASCII as XML character references.
func checksum(lines []string) string {
	h := sha1.New()
	for _, line := range lines {
		for _, r := range line {
			if r < utf8.RuneSelf {
				h.Write([]byte{byte(r)})
			} else {
				fmt.Fprintf(h, "&#%d;", r)
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}
