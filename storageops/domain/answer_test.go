package domain

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/internal/code"
)

// TestLooksThatHangTogether: of several looks at a root that hang at the same time the first one stands for all, each ends by itself
// however it does, and when the last one has ended the root is asked again.
func TestLooksThatHangTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many = 3
		var a answers
		begun, release := make(chan int), make(chan struct{})
		refused := make(chan error)
		for i := range many {
			go func() {
				_, err := ask(&a, "root", func() (int, error) {
					begun <- i
					<-release
					return i, nil
				})
				refused <- err
			}()
		}
		for range many {
			<-begun
		}
		var over []<-chan struct{}
		for range many {
			var silent *NoAnswerError
			if err := <-refused; !errors.As(err, &silent) || code.Of(err) != code.DomainAccess {
				t.Fatalf("a look that hangs answers %v", err)
			}
			over = append(over, silent.Over())
		}
		if _, err := ask(&a, "root", func() (int, error) { t.Fatal("a root that hangs is asked once more"); return 0, nil }); err == nil {
			t.Fatal("a root that hangs answers")
		}
		close(release)
		for _, one := range over {
			<-one
		}
		synctest.Wait()
		if got, err := ask(&a, "root", func() (int, error) { return many, nil }); got != many || err != nil {
			t.Errorf("a root that is back answers %d, %v", got, err)
		}
	})
}

// TestALookThatIsJustInTime: what comes in the moment in which patience ends is answered or dropped, and the root is not taken for
// hung afterwards.
func TestALookThatIsJustInTime(t *testing.T) {
	for range 200 { // which of the two is first is not known
		synctest.Test(t, func(t *testing.T) {
			var a answers
			got, err := ask(&a, "root", func() (int, error) { time.Sleep(patience); return 1, nil })
			if silent := (*NoAnswerError)(nil); got != 1 && !errors.As(err, &silent) {
				t.Fatalf("it answers %d, %v", got, err)
			}
			synctest.Wait()
			if got, err := ask(&a, "root", func() (int, error) { return 2, nil }); got != 2 || err != nil {
				t.Fatalf("a root that has answered answers %d, %v", got, err)
			}
		})
	}
}
