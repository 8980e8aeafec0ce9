package main

import (
	"context"
	"strconv"

	"vdsm-agent/cmd/vdsm-agentctl/internal/show"
)

// domainsCommand lists the storage domains with their sizes. A domain that does not answer is listed with its error.
type domainsCommand struct{}

// domain is what a domain says of itself, in VDSM's words.
type domain struct {
	ID    string       `json:"uuid"`
	Info  *domainInfo  `json:"info,omitempty"`
	Stats *domainStats `json:"stats,omitempty"`
	Error string       `json:"error,omitempty"`
}

type domainInfo struct {
	Name  string `json:"name"`
	Type  string `json:"type"`
	Class string `json:"class"`
	Role  string `json:"role"`
	Path  string `json:"remotePath"`
}

type domainStats struct {
	Total string `json:"disktotal"`
	Free  string `json:"diskfree"`
}

func (c *cli) domainIDs(ctx context.Context) (ids []string, err error) {
	return ids, c.daemon.call(ctx, "Host.getStorageDomains", nil, &ids)
}

func (domainsCommand) Run(ctx context.Context, c *cli) error {
	ids, err := c.domainIDs(ctx)
	if err != nil {
		return err
	}
	all := []domain{}
	silent := 0
	for _, id := range ids {
		d := domain{ID: id, Info: &domainInfo{}, Stats: &domainStats{}}
		params := map[string]string{"storagedomainID": id}
		err := c.daemon.call(ctx, "StorageDomain.getInfo", params, d.Info)
		if err == nil {
			err = c.daemon.call(ctx, "StorageDomain.getStats", params, d.Stats)
		}
		if r := explain(err); r.Exit == exitRefused {
			silent++
			d = domain{ID: id, Error: r.String()}
		} else if err != nil {
			return err
		}
		all = append(all, d)
	}
	err = c.show(all, func() error { return c.domainTable(all) })
	if err == nil && silent > 0 {
		err = fail(exitRefused, "%s no answer; '%s StorageDomain validate storagedomainID=ID' says more",
			count(silent, "domain gives", "domains give"), program)
	}
	return err
}

func (c *cli) domainTable(all []domain) error {
	if len(all) == 0 {
		c.printf("no storage domains\n")
		return nil
	}
	table := c.table(show.Column{Head: "DOMAIN"}, show.Column{Head: "NAME"}, show.Column{Head: "TYPE"}, show.Column{Head: "CLASS"},
		show.Column{Head: "SIZE", Right: true}, show.Column{Head: "FREE", Right: true}, show.Column{Head: "PATH"})
	for _, d := range all {
		if d.Error != "" {
			table.AddCells(show.Cell{Text: d.ID}, show.Cell{}, show.Cell{}, show.Cell{}, show.Cell{}, show.Cell{}, show.Cell{Text: d.Error, Colour: show.Bad})
			continue
		}
		table.Add(d.ID, d.Info.Name, d.Info.Type, d.Info.Class, bytesText(d.Stats.Total), bytesText(d.Stats.Free), d.Info.Path)
	}
	return table.Write(c.stdout)
}

// bytesText makes of VDSM's decimal string a size.
func bytesText(s string) string {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return s
	}
	return show.Size(n)
}
