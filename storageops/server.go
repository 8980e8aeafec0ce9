package storageops

import (
	"context"
	"encoding/json"
	"path"
	"strconv"
	"strings"
	"sync"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
)

// connectionParams are those of StoragePool.connectStorageServer and its inverse.
type connectionParams struct {
	Pool        param.UUID       `json:"storagepoolID" default:""`
	Type        param.DomainType `json:"domainType"`
	Connections []connection     `json:"connectionParams"`
}

// connection is one of them. Engines send more, most of it empty, and a password.
type connection struct {
	ID      string    `json:"id"`
	Path    string    `json:"connection" doc:"directory, server:/export, or whatever mount takes"`
	Kind    string    `json:"vfs_type" default:"" doc:"POSIXFS: type of the file system"`
	Options string    `json:"mnt_options" default:"" doc:"more options of mount"`
	Version string    `json:"protocol_version" default:"" doc:"NFS: 3, 4, 4.1, 4.2; negotiated if it is not given"`
	Timeout param.Int `json:"timeout" default:"0" doc:"NFS: tenths of a second; 0 = 100"`
	Retrans param.Int `json:"retrans" default:"0" doc:"NFS: how often a request is sent again; 0 = 3"`
}

// connected says what became of one: 0, or the code of the error.
type connected struct {
	ID     string `json:"id"`
	Status int    `json:"status"`
}

// spec is how the connection is mounted; with the type LOCALFS it is not.
func (c connection) spec(kind string) (s mountSpec, err error) {
	if s.remote, err = domain.Remote(c.Path); err != nil {
		return s, err
	}
	given := func(yield func(string) bool) {
		for o := range strings.SplitSeq(c.Options, ",") {
			if o != "" && !yield(o) {
				return
			}
		}
	}
	if kind == domain.TypePosixFS {
		s.kind = c.Kind
		for o := range given {
			s.options = append(s.options, o)
		}
		return s, nil
	}
	s.kind = "nfs"
	s.options = []string{"soft", "nosharecache", "timeo=" + strconv.Itoa(orElse(c.Timeout, 100)), "retrans=" + strconv.Itoa(orElse(c.Retrans, 3))}
	if c.Version != "" {
		major, minor, has := strings.Cut(c.Version, ".")
		for _, number := range []string{major, minor + "0"} { // a minor one need not be there
			if _, err := strconv.ParseUint(number, 10, 8); err != nil {
				return s, code.Errorf(code.InvalidParameter, "parameter \"protocol_version\": %q is no version of NFS", c.Version)
			}
		}
		s.options = append(s.options, "nfsvers="+major)
		if has {
			s.options = append(s.options, "minorversion="+minor)
		}
	}
	locks := false
	for o := range given {
		locks = locks || o == "lock" || o == "nolock"
		s.options = append(s.options, o)
	}
	if (c.Version == "" || c.Version == "3") && !locks {
		s.options = append(s.options, "nolock") // locks of a host that died stay with a server of NFS 3
	}
	return s, nil
}

func orElse(n param.Int, other int) int {
	if n > 0 {
		return int(n)
	}
	return other
}

// connectServer makes storage reachable: a directory of this host is remembered as one in which domains may lie, other storage is
// mounted. What cannot be reached gets a status, and the call itself succeeds, as engines expect.
func (st *Storage) connectServer(ctx context.Context, raw json.RawMessage) (any, error) {
	return st.eachConnection(raw, func(kind string, c connection) error {
		switch kind {
		case domain.TypeLocalFS:
			return st.registry.AddRoot(c.Path)
		case domain.TypeNFS, domain.TypePosixFS:
			spec, err := c.spec(kind)
			if err != nil {
				return err
			}
			return st.mounts.connect(ctx, c.ID, spec)
		}
		return code.Errorf(code.StorageServerConnect, "storage of type %s cannot be connected; %s can", kind, strings.Join(domain.Types, ", "))
	})
}

// disconnectServer unmounts what nobody wants any more. Directories of this host are not forgotten: one with domains is looked into as
// long as it is there.
func (st *Storage) disconnectServer(ctx context.Context, raw json.RawMessage) (any, error) {
	return st.eachConnection(raw, func(kind string, c connection) error {
		if kind != domain.TypeNFS && kind != domain.TypePosixFS {
			return nil
		}
		remote, err := domain.Remote(c.Path)
		if err != nil {
			return err
		}
		return st.mounts.disconnect(ctx, c.ID, remote)
	})
}

// mountedDomains are the locks of a disconnect: no task may be at work in a domain that goes away.
func (st *Storage) mountedDomains(raw json.RawMessage) ([]tasks.Lock, error) {
	var p connectionParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	var locks []tasks.Lock
	for _, c := range p.Connections {
		remote, err := domain.Remote(c.Path)
		if kind := string(p.Type); err != nil || kind != domain.TypeNFS && kind != domain.TypePosixFS {
			continue
		}
		for _, id := range st.registry.In(st.registry.MountPoint(remote)) {
			locks = append(locks, domainExclusive(id))
		}
	}
	return locks, nil
}

// eachConnection does it with all connections at once: one whose server does not answer holds up none of the others.
func (st *Storage) eachConnection(raw json.RawMessage, do func(kind string, c connection) error) (any, error) {
	var p connectionParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	out := make([]connected, len(p.Connections))
	var all sync.WaitGroup
	for i, c := range p.Connections {
		all.Go(func() {
			err := do(string(p.Type), c)
			if err != nil {
				st.log.Warn().Err(err).Str("connection", c.Path).Msg("a storage connection does not come about, or does not end")
			}
			out[i] = connected{c.ID, int(code.Of(err))}
		})
	}
	all.Wait()
	return out, nil
}

// rootOf is the root in which a domain of a type is made, and the name of what is mounted there.
func (st *Storage) rootOf(kind, where string) (root, remote string, err error) {
	if kind == domain.TypeLocalFS {
		return path.Clean(where), path.Clean(where), st.registry.AddRoot(where)
	}
	if remote, err = domain.Remote(where); err != nil {
		return "", "", err
	}
	return st.registry.MountPoint(remote), remote, nil
}
