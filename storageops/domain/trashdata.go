package domain

import (
	"path"
	"strings"
)

// Data returns the absolute paths of the volumes' data files that the task has in the trash, in a fixed order. Those that
// other images hold too (shares of a template) are left out: their content is not this task's to destroy. Nothing in the
// trash: none. Unreadable, or being reclaimed: 410.
func (tr *Trash) Data(task string) ([]string, error) {
	m, err := tr.read(task)
	if notExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, it := range m.Items {
		for _, f := range it.Files {
			if strings.HasSuffix(f.Name, metaSuffix) || strings.HasSuffix(f.Name, leaseSuffix) {
				continue
			}
			name := path.Join(tr.itemDir(m, &it), f.Name)
			fi, err := tr.d.t.regular(name)
			if err != nil {
				return nil, err
			}
			if fi != nil && linkCount(fi) == 1 {
				out = append(out, tr.d.t.abs(name))
			}
		}
	}
	return out, nil
}
