package discover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/org/nixoci-action/internal/nix"
)

// search collects outputs, going around what breaks the evaluation.
type search struct {
	eval *evaluator
	opts Options
	attr Attr // that the reference names, or nil
	// found is told of outputs, if it is not nil
	found func([]Output)

	evaluations int
	names       []string // of all that the flake has
	outputs     []Output
	skipped     []pending
}

// errGiveUp means that no evaluation is left, or no time.
var errGiveUp = errors.New("evaluation is given up")

func (s *search) run(ctx context.Context) error {
	tasks, err := s.tasks(ctx)
	if err != nil {
		return err
	}
	ok, err := s.try(ctx, tasks)
	if err != nil {
		return s.plain(ctx, err)
	}
	if !ok {
		s.opts.Logger.Info("the flake does not evaluate as a whole; looking for the attributes that break it")
		s.evaluations++
		if s.names, err = s.eval.names(ctx); err != nil {
			return err // the flake itself is broken
		}
		tasks = slices.DeleteFunc(tasks, func(t task) bool { return !slices.Contains(s.names, t.Path[0]) })
		if err := s.bisect(ctx, tasks, true); err != nil {
			return s.plain(ctx, err)
		}
	}
	return s.messages(ctx)
}

// tasks are what to look at: the kinds, or the attribute that the reference
// names, of each system, where "nix build" looks for it first.
func (s *search) tasks(ctx context.Context) (tasks []task, err error) {
	if s.attr == nil {
		for _, k := range s.opts.Kinds {
			tasks = append(tasks, task{Path: []string{string(k)}})
		}
		return tasks, nil
	}
	if err := s.spend(ctx); err != nil {
		return nil, err
	}
	var places []Attr
	for _, system := range s.eval.args.Systems {
		places = append(places, slices.Concat(Attr{string(Packages), system}, s.attr), slices.Concat(Attr{string(LegacyPackages), system}, s.attr))
	}
	places = append(places, s.attr)
	found, err := s.eval.find(ctx, places)
	if err != nil {
		return nil, s.given(ctx, err)
	}
	seen := map[string]bool{} // a system, or "" for the attribute as it stands
	for _, p := range found {
		system := ""
		if len(p) > len(s.attr) {
			system = p[1]
		} else if len(tasks) > 0 {
			break
		}
		if !slices.Contains(AllKinds(), Kind(p[0])) {
			return nil, fmt.Errorf("attribute %s is of no kind that can be published; there are %v", p, AllKinds())
		}
		if !seen[system] {
			seen[system] = true
			tasks = append(tasks, task{Path: p})
		}
	}
	if len(tasks) == 0 {
		return nil, fmt.Errorf("the flake has no attribute %s: looked for %v", s.attr, places)
	}
	return tasks, nil
}

// unseen reports what the flake has of other kinds than those that are looked at
// by default.
func (s *search) unseen() {
	for _, name := range s.names {
		if !slices.Contains(DefaultKinds(), Kind(name)) {
			message := "it is no kind of output that can be built by itself"
			if slices.Contains(AllKinds(), Kind(name)) {
				message = "it is of a kind that has to be chosen"
			}
			s.skip(Skipped{Attr: Attr{name}, Kind: Kind(name), Reason: NotLookedAt, Message: message}, nil)
		}
	}
}

// plain replaces errGiveUp where there is nothing to show for it.
func (s *search) plain(ctx context.Context, err error) error {
	if errors.Is(err, errGiveUp) && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// broken reports whether err is an evaluation that failed, and not an
// evaluation that could not be made.
func broken(ctx context.Context, err error) bool {
	var failed *nix.CommandError
	return ctx.Err() == nil && errors.As(err, &failed)
}

// spend takes one evaluation from the budget.
func (s *search) spend(ctx context.Context) error {
	if s.evaluations >= s.opts.MaxEvaluations || ctx.Err() != nil {
		return errGiveUp
	}
	s.evaluations++
	return nil
}

// try evaluates tasks together and keeps the result. It returns false if
// something among them breaks the evaluation.
func (s *search) try(ctx context.Context, tasks []task) (bool, error) {
	if err := s.spend(ctx); err != nil {
		return false, err
	}
	outputs, skipped, names, err := s.eval.visit(ctx, tasks, s.evaluations > 1)
	if broken(ctx, err) {
		return false, nil
	}
	if err != nil {
		return false, s.given(ctx, err)
	}
	s.names = names
	return true, s.keep(ctx, outputs, skipped)
}

// keep takes in what an evaluation gave, and tells of it.
func (s *search) keep(ctx context.Context, outputs []Output, skipped []pending) error {
	if err := resolve(ctx, s.eval.client, outputs); err != nil {
		return s.given(ctx, err)
	}
	for _, p := range skipped {
		if p.Reason == UnknownPath && s.opts.Floating {
			outputs = append(outputs, p.floating)
		} else {
			s.skipped = append(s.skipped, p)
		}
	}
	if s.opts.DenyUnfree {
		outputs = slices.DeleteFunc(outputs, func(o Output) bool {
			if o.Unfree {
				s.skip(Skipped{Attr: o.Attr, Kind: o.Kind, System: o.System, Reason: Unfree, Message: "its license is not free"}, nil)
			}
			return o.Unfree
		})
	}
	s.outputs = append(s.outputs, outputs...)
	if s.found != nil && len(outputs) > 0 {
		s.found(outputs)
	}
	return nil
}

// given turns the end of the time into errGiveUp.
func (s *search) given(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return errGiveUp
	}
	return err
}

// bisect evaluates tasks, halving them until what breaks is alone. bad tells
// that they are known not to evaluate together.
func (s *search) bisect(ctx context.Context, tasks []task, bad bool) error {
	if len(tasks) == 0 {
		return nil
	}
	if !bad {
		if ok, err := s.try(ctx, tasks); ok || err != nil {
			return s.giveUp(tasks, err)
		}
	}
	if len(tasks) == 1 {
		parts, err := s.split(ctx, tasks[0])
		if err != nil || len(parts) == 0 {
			return s.giveUp(tasks, err)
		}
		// the node is bad, so its only part is
		return s.halves(ctx, parts)
	}
	return s.halves(ctx, tasks)
}

// halves evaluates two halves of tasks that break together. If the first is
// good, the second is known to be bad.
func (s *search) halves(ctx context.Context, tasks []task) error {
	if len(tasks) == 1 {
		return s.bisect(ctx, tasks, true)
	}
	first, second := tasks[:len(tasks)/2], tasks[len(tasks)/2:]
	ok, err := s.try(ctx, first)
	if err != nil {
		return s.giveUp(tasks, err)
	}
	if !ok {
		if err := s.bisect(ctx, first, true); err != nil {
			return err
		}
	}
	return s.bisect(ctx, second, ok)
}

// split returns the parts of one task that breaks the evaluation: the halves of
// a range, the members of a set. For a leaf it returns none, having reported
// it.
func (s *search) split(ctx context.Context, t task) ([]task, error) {
	if t.From != nil {
		from, to := *t.From, *t.To
		if to-from > 1 {
			mid := from + (to-from)/2
			return []task{{Path: t.Path, From: &from, To: &mid, names: t.names}, {Path: t.Path, From: &mid, To: &to, names: t.names}}, nil
		}
		t = task{Path: append(slices.Clone(t.Path), t.names[from])}
	}
	names, err := s.examine(ctx, pending{
		Skipped: Skipped{Attr: t.Path, Kind: Kind(t.Path[0]), Reason: EvaluationError},
		node:    t.Path,
	})
	if err != nil || len(names) == 0 {
		return nil, err
	}
	from, to := 0, len(names)
	return []task{{Path: t.Path, From: &from, To: &to, names: names}}, nil
}

// examine evaluates one broken node by itself. It reports a leaf with Nix's
// message, and returns the names of the members of a set. A leaf may work out
// nevertheless: then only its meta is broken.
func (s *search) examine(ctx context.Context, p pending) (names []string, err error) {
	if err := s.spend(ctx); err != nil {
		return nil, err
	}
	names, outputs, skipped, err := s.eval.examine(ctx, p.node)
	if broken(ctx, err) {
		var failed *nix.CommandError
		errors.As(err, &failed)
		p.Message = cmp.Or(failed.Message, failed.Err.Error())
		s.skipped = append(s.skipped, p)
		return nil, nil
	}
	if err != nil {
		return nil, s.given(ctx, err)
	}
	return names, s.keep(ctx, outputs, skipped)
}

// messages asks for Nix's message where tryEval has caught an error, as tryEval
// does not tell.
func (s *search) messages(ctx context.Context) error {
	all, n := s.skipped, 0
	s.skipped = nil
	for _, p := range all {
		if p.Reason != EvaluationError || p.Message != "" {
			s.skipped = append(s.skipped, p)
			continue
		}
		err := errGiveUp
		if n < maxMessages {
			n++
			var names []string
			if names, err = s.examine(ctx, p); names != nil {
				p.Message = "its evaluation failed once, and not again"
				s.skipped = append(s.skipped, p)
			}
		}
		if errors.Is(err, errGiveUp) {
			p.Message = "its evaluation fails; Nix's message was not asked for, as many others fail too"
			s.skipped = append(s.skipped, p)
		} else if err != nil {
			return err
		}
	}
	return nil
}

func (s *search) skip(sk Skipped, node []string) {
	s.skipped = append(s.skipped, pending{Skipped: sk, node: node})
}

// giveUp reports tasks as not evaluated if err is errGiveUp, and returns any
// other error.
func (s *search) giveUp(tasks []task, err error) error {
	if !errors.Is(err, errGiveUp) {
		return err
	}
	for _, t := range tasks {
		message := fmt.Sprintf("given up after %d evaluations", s.evaluations)
		if t.From != nil {
			message += fmt.Sprintf(", with %d attributes from %s to %s left",
				*t.To-*t.From, nix.Quote(t.names[*t.From]), nix.Quote(t.names[*t.To-1]))
		}
		s.skip(Skipped{Attr: t.Path, Kind: Kind(t.Path[0]), Reason: NotEvaluated, Message: message}, t.Path)
	}
	return nil
}
