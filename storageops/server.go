package storageops

import (
	"context"
	"encoding/json"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops/domain"
)

// connectionParams are those of StoragePool.connectStorageServer and its inverse.
type connectionParams struct {
	Pool        param.UUID       `json:"storagepoolID" default:""`
	Type        param.DomainType `json:"domainType"`
	Connections []connection     `json:"connectionParams"`
}

// connection is one of them. Engines send more, most of it empty, and a password.
type connection struct {
	ID   string `json:"id"`
	Path string `json:"connection"`
}

// connected says what became of one: 0, or the code of the error.
type connected struct {
	ID     string `json:"id"`
	Status int    `json:"status"`
}

// connectServer remembers the directories in which domains may lie. Mounting them is the host's work: what is not a directory that is there
// now gets a status, and the call itself succeeds, as engines expect.
func (st *Storage) connectServer(_ context.Context, raw json.RawMessage) (any, error) {
	return st.eachConnection(raw, func(c connection) error { return st.registry.AddRoot(c.Path) })
}

// disconnectServer forgets nothing: a directory with domains of this host is looked into as long as it is there.
func (st *Storage) disconnectServer(_ context.Context, raw json.RawMessage) (any, error) {
	return st.eachConnection(raw, func(connection) error { return nil })
}

func (st *Storage) eachConnection(raw json.RawMessage, do func(connection) error) (any, error) {
	var p connectionParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	out := []connected{}
	for _, c := range p.Connections {
		err := error(code.Errorf(code.StorageServerConnect, "storage of type %s cannot be connected; %s can", p.Type, domain.TypeLocalFS))
		if string(p.Type) == domain.TypeLocalFS {
			err = do(c)
		}
		if err != nil {
			st.log.Warn().Err(err).Str("connection", c.Path).Msg("storage cannot be connected")
		}
		out = append(out, connected{c.ID, int(code.Of(err))})
	}
	return out, nil
}
