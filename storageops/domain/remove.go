package domain

import "vdsm-agent/internal/code"

// Roles of a domain in its pool.
const (
	RoleRegular = "Regular"
	RoleMaster  = "Master"
)

// MakeMasterDirs makes the directories that VDSM wants in a master domain. They stay when it is one no more.
func (d *Domain) MakeMasterDirs() error {
	if err := d.changeable(); err != nil {
		return err
	}
	for _, dir := range []string{"master", "master/tasks", "master/vms"} {
		if _, err := d.t.ensureDir(dir); err != nil {
			return err
		}
	}
	return d.t.sync("master", ".")
}

// Remove destroys a domain with all that is in it. From one rename on it is there no more; what a crash leaves after that is removed
// when its root is opened again. A trash that is not empty is an error (410): whoever put something there may want it back.
func (r *Registry) Remove(uuid string) error {
	d, err := r.Get(uuid)
	if err != nil {
		return err
	}
	if entries, err := d.Trash().List(); err != nil {
		return err
	} else if len(entries) > 0 {
		return code.Errorf(code.TaskState, "there is something in the trash of domain %s (task %s); clear the task or empty the trash first", uuid, entries[0].Task)
	}
	defer r.changing.lock(d.rootPath)()
	t, err := r.rootTree(d.rootPath)
	if err != nil {
		return err
	}
	defer t.root.Close()
	if err := t.rename(uuid, createPrefix+uuid); err != nil {
		return err
	}
	if err := t.sync("."); err != nil {
		return err
	}
	r.forget(d)
	return r.cleanRoot(d.rootPath)
}
