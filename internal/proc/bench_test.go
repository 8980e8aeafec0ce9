package proc

import "testing"

// BenchmarkWorker is one worker from its start to the proof of its end: what a slice of a copy costs beside its work.
func BenchmarkWorker(b *testing.B) {
	for name, cgroup := range modes {
		b.Run(name, func(b *testing.B) {
			m, err := New(Options{Dir: b.TempDir(), Cgroup: cgroup, Name: newName()})
			if err != nil {
				b.Fatal(err)
			}
			defer m.Close()
			for b.Loop() {
				w, err := m.Start(Spec{Task: "t", Argv: []string{"true"}})
				if err != nil {
					b.Fatal(err)
				}
				if err := w.Wait(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
