package storageops

import (
	"strings"
	"testing"

	"vdsm-agent/storageops/domain"
)

// TestMountOptions: what mount is given for a connection, as VDSM gives it.
func TestMountOptions(t *testing.T) {
	for _, c := range []struct {
		kind string
		c    connection
		want string // type, what, options
	}{
		{domain.TypeNFS, connection{Path: "host:/export/"}, "nfs host:/export soft,nosharecache,timeo=100,retrans=3,nolock"},
		{domain.TypeNFS, connection{Path: "host://a//b", Version: "3", Timeout: 600, Retrans: 6}, "nfs host:/a/b soft,nosharecache,timeo=600,retrans=6,nfsvers=3,nolock"},
		{domain.TypeNFS, connection{Path: "[fe80::1]:/e", Version: "4.1", Options: "sec=krb5,,ro"}, "nfs [fe80::1]:/e soft,nosharecache,timeo=100,retrans=3,nfsvers=4,minorversion=1,sec=krb5,ro"},
		{domain.TypeNFS, connection{Path: "host:/e", Options: "lock"}, "nfs host:/e soft,nosharecache,timeo=100,retrans=3,lock"},
		{domain.TypePosixFS, connection{Path: "/dev/vdb/", Kind: "ext4"}, "ext4 /dev/vdb "},
		{domain.TypePosixFS, connection{Path: "mon:6789:/", Kind: "ceph", Options: "name=x"}, "ceph mon:6789:/ name=x"},
	} {
		s, err := c.c.spec(c.kind)
		if got := s.kind + " " + s.remote + " " + strings.Join(s.options, ","); err != nil || got != c.want {
			t.Errorf("%+v is mounted as %q, %v; want %q", c.c, got, err, c.want)
		}
	}
}
