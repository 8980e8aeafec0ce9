package param

import (
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"vdsm-agent/internal/code"
)

// UUID is a lower-case UUID string, as VDSM takes them.
type UUID string

// Blank is the UUID that stands for "none".
const Blank UUID = "00000000-0000-0000-0000-000000000000"

var uuidPattern = regexp.MustCompile(`^[a-f0-9]{8}-([a-f0-9]{4}-){3}[a-f0-9]{12}$`)

// IsBlank says whether the UUID stands for "none": all zeros, or absent.
func (u UUID) IsBlank() bool { return u == "" || u == Blank }

// ValidUUID says whether s is a UUID as VDSM takes them.
func ValidUUID(s string) bool { return uuidPattern.MatchString(s) }

// UnmarshalJSON refuses what is not a lower-case UUID.
func (u *UUID) UnmarshalJSON(b []byte) error { return text(b, u.fromText) }

func (u *UUID) fromText(s string) error {
	if !ValidUUID(s) {
		return code.Errorf(code.InvalidParameter, "%s is not a UUID (lower case, 8-4-4-4-12 digits)", quote(s))
	}
	*u = UUID(s)
	return nil
}

// MaxSize is the largest virtual size of a volume: 64 TiB.
const MaxSize = 64 << 40

// Size is a number of bytes, 0 to MaxSize, that travels as a decimal string, as VDSM's sizes do.
type Size int64

// UnmarshalJSON takes a decimal string; a JSON number is refused as VDSM does.
func (n *Size) UnmarshalJSON(b []byte) error { return text(b, n.fromText) }

func (n *Size) fromText(s string) error {
	v, err := strconv.ParseInt(s, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange) && !strings.HasPrefix(s, "-"), err == nil && v > MaxSize:
		return code.Errorf(code.InvalidParameter, "%s bytes is more than a volume may have (%d, 64 TiB)", shorten(s), int64(MaxSize))
	case err != nil:
		return code.Errorf(code.InvalidParameter, "%s is not a number of bytes (a decimal string such as \"1073741824\")", quote(s))
	case v < 0:
		return code.Errorf(code.InvalidParameter, "%s bytes is negative", shorten(s))
	}
	*n = Size(v)
	return nil
}

// Bool is a boolean that may arrive as true, or as "true" in any case; any other string is false, as in VDSM.
type Bool bool

// UnmarshalJSON takes a boolean or a string.
func (v *Bool) UnmarshalJSON(b []byte) error {
	switch {
	case string(b) == "true" || string(b) == "false":
		*v = string(b) == "true"
		return nil
	case len(b) > 0 && b[0] != '"':
		return code.Errorf(code.InvalidParameter, "%s is not true or false", shorten(string(b)))
	}
	return text(b, v.fromText)
}

func (v *Bool) fromText(s string) error {
	*v = Bool(strings.EqualFold(s, "true"))
	return nil
}

// Int is an integer that may arrive as a decimal string.
type Int int64

// UnmarshalJSON takes an integer or a decimal string.
func (n *Int) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] != '"' {
		return n.fromText(string(b))
	}
	return text(b, n.fromText)
}

func (n *Int) fromText(s string) error {
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return code.Errorf(code.InvalidParameter, "%s is not a whole number", quote(s))
	}
	*n = Int(v)
	return nil
}

// Seconds is a length of time in seconds, 0 to one year, whole or with a fraction, that may arrive as a string.
type Seconds float64

// UnmarshalJSON takes a number or a decimal string.
func (n *Seconds) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] != '"' {
		return n.fromText(string(b))
	}
	return text(b, n.fromText)
}

func (n *Seconds) fromText(s string) error {
	const year = 365 * 24 * 3600
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || !(v >= 0 && v <= year) {
		return code.Errorf(code.InvalidParameter, "%s is not a number of seconds from 0 to %d", quote(s), year)
	}
	*n = Seconds(v)
	return nil
}

// Format is a volume's format; 4 is COW and 5 is RAW on the wire.
type Format string

// The formats of volumes.
const (
	COW Format = "COW"
	RAW Format = "RAW"
)

// UnmarshalJSON takes the word in any case or VDSM's integer.
func (f *Format) UnmarshalJSON(b []byte) error { return word(b, (*string)(f), formats) }

func (f *Format) fromText(s string) error { return choose(s, (*string)(f), formats) }

var formats = map[string]string{"4": "COW", "5": "RAW", "cow": "COW", "raw": "RAW"}

// Allocation is how a volume is allocated; 1 is PREALLOCATED and 2 is SPARSE on the wire.
type Allocation string

// The ways to allocate a volume.
const (
	Preallocated Allocation = "PREALLOCATED"
	Sparse       Allocation = "SPARSE"
)

// UnmarshalJSON takes the word in any case or VDSM's integer.
func (a *Allocation) UnmarshalJSON(b []byte) error { return word(b, (*string)(a), allocations) }

func (a *Allocation) fromText(s string) error { return choose(s, (*string)(a), allocations) }

var allocations = map[string]string{"1": "PREALLOCATED", "2": "SPARSE", "preallocated": "PREALLOCATED", "sparse": "SPARSE"}

// VolType is a volume's place in its chain; 6 is SHARED, 7 INTERNAL and 8 LEAF on the wire.
type VolType string

// The places of a volume in a chain.
const (
	Shared   VolType = "SHARED"
	Internal VolType = "INTERNAL"
	Leaf     VolType = "LEAF"
)

// UnmarshalJSON takes the word in any case or VDSM's integer.
func (v *VolType) UnmarshalJSON(b []byte) error { return word(b, (*string)(v), volTypes) }

func (v *VolType) fromText(s string) error { return choose(s, (*string)(v), volTypes) }

var volTypes = map[string]string{"6": "SHARED", "7": "INTERNAL", "8": "LEAF", "shared": "SHARED", "internal": "INTERNAL", "leaf": "LEAF"}

// Operation is what Image.move does; 1 is COPY and 2 MOVE on the wire.
type Operation string

// The operations of Image.move.
const (
	Copy Operation = "COPY"
	Move Operation = "MOVE"
)

// UnmarshalJSON takes the word in any case or VDSM's integer.
func (o *Operation) UnmarshalJSON(b []byte) error { return word(b, (*string)(o), operations) }

func (o *Operation) fromText(s string) error { return choose(s, (*string)(o), operations) }

var operations = map[string]string{"1": "COPY", "2": "MOVE", "copy": "COPY", "move": "MOVE"}

// SyncType says which volumes of a chain Image.syncData copies.
type SyncType string

// The parts of a chain.
const (
	SyncAll      SyncType = "ALL"
	SyncInternal SyncType = "INTERNAL" // all but the leaf
	SyncLeaf     SyncType = "LEAF"
)

// UnmarshalJSON takes one of VDSM's words, in any case.
func (y *SyncType) UnmarshalJSON(b []byte) error { return word(b, (*string)(y), syncTypes) }

func (y *SyncType) fromText(s string) error { return choose(s, (*string)(y), syncTypes) }

var syncTypes = sameWords("ALL", "INTERNAL", "LEAF")

// DomainType is the type of a storage domain; 4 is LOCALFS on the wire.
type DomainType string

// UnmarshalJSON takes the word in any case or VDSM's integer.
func (d *DomainType) UnmarshalJSON(b []byte) error { return word(b, (*string)(d), domainTypes) }

func (d *DomainType) fromText(s string) error { return choose(s, (*string)(d), domainTypes) }

var domainTypes = map[string]string{
	"1": "NFS", "2": "FCP", "3": "ISCSI", "4": "LOCALFS", "5": "CIFS", "6": "POSIXFS", "7": "GLUSTERFS",
	"nfs": "NFS", "fcp": "FCP", "iscsi": "ISCSI", "localfs": "LOCALFS", "cifs": "CIFS", "posixfs": "POSIXFS", "sharedfs": "POSIXFS",
	"glusterfs": "GLUSTERFS",
}

// DomainClass is the class of a storage domain; 1 is Data, 2 Iso and 3 Backup on the wire.
type DomainClass string

// UnmarshalJSON takes the word in any case or VDSM's integer.
func (d *DomainClass) UnmarshalJSON(b []byte) error { return word(b, (*string)(d), domainClasses) }

func (d *DomainClass) fromText(s string) error { return choose(s, (*string)(d), domainClasses) }

var domainClasses = map[string]string{"1": "Data", "2": "Iso", "3": "Backup", "data": "Data", "iso": "Iso", "backup": "Backup"}

// DiskType is what a volume is for. VDSM writes the word as it comes and knows "1" and "2" from old engines.
type DiskType string

// UnmarshalJSON takes one of VDSM's words, in upper case.
func (d *DiskType) UnmarshalJSON(b []byte) error { return word(b, (*string)(d), diskTypes) }

func (d *DiskType) fromText(s string) error { return choose(s, (*string)(d), diskTypes) }

var diskTypes = sameWords("1", "2", "DATA", "ISOF", "MEMD", "MEMM", "OVFS", "HEVD", "HESD", "HEMD", "HECI", "SCRD")

func sameWords(words ...string) map[string]string {
	out := map[string]string{}
	for _, w := range words {
		out[strings.ToLower(w)] = w
	}
	return out
}

// text hands the string in b to take.
func text(b []byte, take func(string) error) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return code.Errorf(code.InvalidParameter, "%s is not a string", shorten(string(b)))
	}
	return take(s)
}

// word takes a JSON string or number and chooses from words.
func word(b []byte, dst *string, words map[string]string) error {
	if len(b) > 0 && b[0] != '"' {
		return choose(string(b), dst, words)
	}
	return text(b, func(s string) error { return choose(s, dst, words) })
}

func choose(s string, dst *string, words map[string]string) error {
	if w, ok := words[strings.ToLower(s)]; ok {
		*dst = w
		return nil
	}
	return code.Errorf(code.InvalidParameter, "%s is none of %s", quote(s), strings.Join(distinct(words), ", "))
}

func typeName(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem() // one that tells absent from zero
	}
	switch t {
	case reflect.TypeFor[UUID]():
		return "UUID"
	case reflect.TypeFor[Size]():
		return "bytes"
	case reflect.TypeFor[Format]():
		return strings.Join(distinct(formats), "|")
	case reflect.TypeFor[Allocation]():
		return strings.Join(distinct(allocations), "|")
	case reflect.TypeFor[VolType]():
		return strings.Join(distinct(volTypes), "|")
	case reflect.TypeFor[Operation]():
		return strings.Join(distinct(operations), "|")
	case reflect.TypeFor[SyncType]():
		return strings.Join(distinct(syncTypes), "|")
	case reflect.TypeFor[DomainType]():
		return strings.Join(distinct(domainTypes), "|")
	case reflect.TypeFor[DiskType]():
		return strings.Join(distinct(diskTypes), "|")
	case reflect.TypeFor[DomainClass]():
		return strings.Join(distinct(domainClasses), "|")
	case reflect.TypeFor[Seconds]():
		return "seconds"
	}
	return t.Kind().String()
}

// distinct lists the words that can be chosen, each once.
func distinct(words map[string]string) []string {
	return slices.Compact(slices.Sorted(maps.Values(words)))
}
