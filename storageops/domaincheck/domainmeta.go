package domaincheck

import (
	"strings"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/domain"
)

// domainMeta reads dom_md/metadata.
func (s *scan) domainMeta() {
	data, err := s.read(metadataFile, 1<<20)
	if err != nil {
		s.unreadable(metadataFile, err)
		return
	}
	m, err := domain.ParseDomainMeta(data)
	if code.Of(err) == code.MetadataSealBroken {
		s.add("domain-checksum", metadataFile, "%s.", capital(err))
		// What else it says may be right; it is looked at as if it were.
		m, err = domain.ParseDomainMeta(withoutChecksum(data))
	}
	if err != nil {
		s.add("domain-metadata", metadataFile, "%s.", capital(err))
		return
	}
	s.meta = &m
	r := s.report
	r.UUID, r.Name, r.Type, r.Version = m.UUID, m.Name, m.Type, m.Version
	if dir := s.o.Path[strings.LastIndex(s.o.Path, "/")+1:]; isUUID(dir) && dir != m.UUID {
		s.add("domain-id", metadataFile, "The directory is %s, its metadata is of domain %s.", dir, m.UUID)
	}
	if m.Version < domain.Version {
		s.add("domain-version", metadataFile, "The domain has version %d.", m.Version)
	}
}

func withoutChecksum(data []byte) []byte {
	var lines []string
	for line := range strings.Lines(string(data)) {
		if !strings.HasPrefix(strings.TrimSpace(line), "_SHA_CKSUM") {
			lines = append(lines, line)
		}
	}
	return []byte(strings.Join(lines, ""))
}

// capital makes the beginning of a sentence of an error.
func capital(err error) string {
	text := err.Error()
	return strings.ToUpper(text[:1]) + text[1:]
}
