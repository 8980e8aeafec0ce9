package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The first half of the protocol: what both sides can do, and which export is meant. All numbers are big-endian.
const (
	magicServer = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption = 0x49484156454f5054 // "IHAVEOPT"
	magicAnswer = 0x0003e889045565a9

	fixedNewStyle = 1 << 0
	noZeroes      = 1 << 1

	optGo         = 7
	optStructured = 8
	optContext    = 10

	repAck     = 1
	repInfo    = 3
	repContext = 4
	repError   = 1 << 31

	infoExport = 0

	maxAnswer = 64 << 10 // of an option; names and sizes are far shorter
)

// The metadata contexts, by name.
const (
	contextAllocation = "base:allocation"
	contextDepth      = "qemu:allocation-depth"
)

// errRefused: the server does not know an option, or does not want it.
var errRefused = errors.New("the server refuses")

// Open greets the server at the other end of conn and chooses the export of that name. The connection is the Conn's from then on, also after
// an error.
//
//   - What is there is no NBD server of today, or has no such export: an error.
//   - It knows no structured answers: nothing can be read, and not be asked what is allocated.
func Open(conn io.ReadWriteCloser, export string) (*Conn, error) {
	c := &Conn{conn: conn, calls: map[uint64]*call{}, contexts: map[uint32]string{}}
	if err := c.greet(export); err != nil {
		conn.Close()
		return nil, fmt.Errorf("the NBD server cannot be used: %w", err)
	}
	go c.receive()
	return c, nil
}

func (c *Conn) greet(export string) error {
	var hello struct {
		Server, Option uint64
		Flags          uint16
	}
	if err := binary.Read(c.conn, binary.BigEndian, &hello); err != nil {
		return err
	}
	if hello.Server != magicServer || hello.Option != magicOption || hello.Flags&fixedNewStyle == 0 {
		return errors.New("it greets as none of today does")
	}
	flags := uint32(fixedNewStyle | hello.Flags&noZeroes)
	if _, err := c.conn.Write(binary.BigEndian.AppendUint32(nil, flags)); err != nil {
		return err
	}
	err := c.option(optStructured, nil, nil)
	if err == nil {
		err = c.option(optContext, contexts(export), c.learnContext)
	}
	if err != nil && !errors.Is(err, errRefused) {
		return err
	}
	found := false
	choice := append(binary.BigEndian.AppendUint32(nil, uint32(len(export))), export...)
	err = c.option(optGo, binary.BigEndian.AppendUint16(choice, 0), func(kind uint32, data []byte) {
		if kind == repInfo && len(data) >= 10 && binary.BigEndian.Uint16(data) == infoExport {
			c.size, found = int64(binary.BigEndian.Uint64(data[2:])), true
		}
	})
	if err == nil && (!found || c.size < 0) {
		err = errors.New("it does not say how large it is")
	}
	if err != nil {
		return fmt.Errorf("export %q: %w", export, err)
	}
	return nil
}

// contexts asks for those that are used; a server leaves out those that it does not know.
func contexts(export string) []byte {
	b := append(binary.BigEndian.AppendUint32(nil, uint32(len(export))), export...)
	names := []string{contextAllocation, contextDepth}
	b = binary.BigEndian.AppendUint32(b, uint32(len(names)))
	for _, n := range names {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(n))), n...)
	}
	return b
}

func (c *Conn) learnContext(kind uint32, data []byte) {
	if kind == repContext && len(data) > 4 {
		c.contexts[binary.BigEndian.Uint32(data)] = string(data[4:])
	}
}

// option sends an option and hands each answer but the last, which agrees, to each.
func (c *Conn) option(option uint32, data []byte, each func(kind uint32, data []byte)) error {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(b, option)
	b = append(binary.BigEndian.AppendUint32(b, uint32(len(data))), data...)
	if _, err := c.conn.Write(b); err != nil {
		return err
	}
	for {
		var head struct {
			Magic                uint64
			Option, Kind, Length uint32
		}
		if err := binary.Read(c.conn, binary.BigEndian, &head); err != nil {
			return err
		}
		if head.Magic != magicAnswer || head.Option != option || head.Length > maxAnswer {
			return fmt.Errorf("it answers with %+v", head)
		}
		answer := make([]byte, head.Length)
		if _, err := io.ReadFull(c.conn, answer); err != nil {
			return err
		}
		switch {
		case head.Kind == repAck:
			return nil
		case head.Kind&repError != 0:
			return fmt.Errorf("%w: %q (%d)", errRefused, answer, head.Kind&^repError)
		case each != nil:
			each(head.Kind, answer)
		}
	}
}
