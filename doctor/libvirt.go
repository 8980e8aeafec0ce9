package doctor

import (
	"context"

	"vdsm-agent/vmops/virt"

	"github.com/rs/zerolog"
)

// askLibvirt connects as the daemon does, and asks for what it asks for most often.
func (l *looker) askLibvirt() error {
	c := virt.Open(virt.Options{Socket: l.config.Libvirt, Log: zerolog.Nop()})
	defer c.Close()
	ctx, end := context.WithTimeout(l.ctx, 2*patience)
	defer end()
	_, err := c.List(ctx)
	return err
}
