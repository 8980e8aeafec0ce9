package storageops

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops/nbd"
	"vdsm-agent/storageops/qemuimg"
	"vdsm-agent/tasks"
)

// endpoint is one end of SDM.copy_data: a volume, or something outside of all domains.
type endpoint struct {
	divInfo
	// What follows is of external ones.
	URL    string        `json:"url,omitempty"`
	Format string        `json:"format,omitempty"`
	Lease  externalLease `json:"lease,omitzero"`
	Create *param.Bool   `json:"create,omitempty"` // nil = true
	IsZero param.Bool    `json:"is_zero,omitempty"`
	Sparse param.Bool    `json:"sparse,omitempty"` // no difference is made: zeros take no room
}

// externalLease names who may write an external endpoint.
type externalLease struct {
	Domain param.UUID `json:"sd_id"`
	Lease  param.UUID `json:"lease_id"`
}

func (e endpoint) external() bool { return e.Type == "external" }

// String names it for messages.
func (e endpoint) String() string {
	if e.external() {
		return e.URL
	}
	return e.ref().String()
}

// image is the external endpoint as it is opened: alone, in the format that is said.
func (e endpoint) image() (qemuimg.Image, error) {
	format := map[string]string{"raw": qemuimg.Raw, "cow": qemuimg.QCOW2, "qcow2": qemuimg.QCOW2}[e.Format]
	if format == "" {
		return qemuimg.Image{}, code.Errorf(code.InvalidParameter, "the format %q is none of raw, cow, qcow2; it is never guessed", e.Format)
	}
	img := qemuimg.Image{Path: e.URL, Format: format}
	if strings.HasPrefix(e.URL, "nbd") {
		a, err := nbd.ParseAddress(e.URL)
		if err != nil {
			return img, code.Errorf(code.InvalidParameter, "%w", err)
		}
		img.Path = a.String()
		return img, img.Check()
	}
	img.Path = strings.TrimPrefix(img.Path, "file://")
	if !filepath.IsAbs(img.Path) || filepath.Clean(img.Path) != img.Path {
		return img, code.Errorf(code.InvalidParameter, "the url %q is neither the absolute path of a file nor an NBD server on a socket of this host (nbd+unix:///EXPORT?socket=PATH); no other protocol is used", e.URL)
	}
	return img, nil
}

func (e endpoint) check() error {
	if !e.external() {
		return e.divInfo.check()
	}
	if e.Generation != nil {
		return code.Errorf(code.Unsupported, "the generation of an external endpoint is kept in sanlock's lease, which this agent does not use yet; leave it out")
	}
	if e.Lease.Domain.IsBlank() != e.Lease.Lease.IsBlank() {
		return code.Errorf(code.InvalidParameter, "a lease is named by sd_id and lease_id, none of them zeros")
	}
	_, err := e.image()
	return err
}

// same says whether two that were checked are one.
func (e endpoint) same(o endpoint) bool {
	if !e.external() || !o.external() {
		return e.external() == o.external() && e.ref() == o.ref()
	}
	a, _ := e.image() // check has asked
	b, _ := o.image()
	return a.Path == b.Path
}

// locks are held while the endpoint is read, or written.
func (e endpoint) locks(write bool) []tasks.Lock {
	if !e.external() {
		ref := e.ref()
		image := imageShared(ref.Domain, ref.Image)
		image.Exclusive = write
		return []tasks.Lock{domainShared(ref.Domain), image}
	}
	img, err := e.image()
	if err != nil {
		return nil // check has refused it
	}
	locks := []tasks.Lock{{Key: "external/" + img.Path, Exclusive: write}}
	if !e.Lease.Domain.IsBlank() {
		locks = append(locks, domainShared(string(e.Lease.Domain)))
	}
	return locks
}

// admitExternal refuses at once what is no such endpoint, or is not there.
func (st *Storage) admitExternal(e endpoint, write bool) error {
	img, err := e.image()
	if err != nil {
		return err
	}
	path := img.Path
	if a, err := nbd.ParseAddress(path); err == nil {
		path = a.Socket
	}
	there, err := st.images.External(path)
	if err == nil && !there && (!write || !e.makes()) {
		err = code.Errorf(code.InvalidParameter, "%s is not there", e.URL)
	}
	if err == nil && write && !e.Lease.Domain.IsBlank() {
		_, err = st.writable(string(e.Lease.Domain))
	}
	return err
}

// makes says whether the destination is made anew. What a server shows is there.
func (e endpoint) makes() bool {
	return (e.Create == nil || bool(*e.Create)) && !strings.HasPrefix(e.URL, "nbd")
}

// externally calls f while the task holds the endpoint's lease, if it has one.
func (st *Storage) externally(ctx context.Context, s *tasks.Scope, e endpoint, f func() error) error {
	if e.Lease.Domain.IsBlank() {
		return f()
	}
	release, err := st.hold(ctx, s, volumeRef{Domain: string(e.Lease.Domain), Volume: string(e.Lease.Lease)})
	if err != nil {
		return err
	}
	defer release()
	return f()
}

func (i imageFiles) External(path string) (there bool, err error) {
	refuse := func(format string, args ...any) (bool, error) {
		return false, code.Errorf(code.InvalidParameter, "%s is refused: "+format, append([]any{path}, args...)...)
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return refuse("its directory cannot be found: %w", err)
	}
	for _, id := range i.leases.domains.List() {
		d, err := i.leases.domains.Registry.Get(id)
		if err != nil {
			continue
		}
		if root, err := filepath.EvalSymlinks(d.Path()); err == nil && strings.HasPrefix(dir+"/", root+"/") {
			return refuse("it lies in storage domain %s; name the volume, with endpoint_type div", id)
		}
	}
	switch fi, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return refuse("it cannot be looked at: %w", err)
	case !fi.Mode().IsRegular() && fi.Mode().Type() != fs.ModeSocket:
		return refuse("it is neither a regular file nor a socket (%s)", fi.Mode().Type())
	}
	return true, nil
}

func (i imageFiles) CreateExternal(ctx context.Context, w work, c qemuimg.CreateSpec) error {
	if err := qemuimg.Create(ctx, i.env(w), c); err != nil {
		return err
	}
	for _, path := range []string{c.Path, filepath.Dir(c.Path)} {
		f, err := os.Open(path)
		if err != nil {
			return code.Errorf(code.Storage, "%s cannot be put on stable storage: %w", path, err)
		}
		err = errors.Join(f.Sync(), f.Close())
		if err != nil {
			return code.Errorf(code.Storage, "%s cannot be put on stable storage: %w", path, err)
		}
	}
	return nil
}
