package ui

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// Logger returns a logger for people, from level on: lines in the form of all
// other messages, without a time, attributes in parentheses.
func (m *Messages) Logger(level slog.Level) *slog.Logger {
	return slog.New(&handler{m: m, level: level})
}

type handler struct {
	m     *Messages
	level slog.Level
	attrs []slog.Attr
	group string
}

var _ slog.Handler = (*handler)(nil)

func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	attrs := slices.Clone(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		a.Key = h.group + a.Key
		attrs = append(attrs, a)
		return true
	})
	var b strings.Builder
	switch {
	case r.Level >= slog.LevelWarn:
		b.WriteString("warning: ")
	case r.Level < slog.LevelInfo:
		b.WriteString("debug: ")
	}
	b.WriteString(Line(r.Message))
	sep := " ("
	for _, a := range attrs {
		if a.Key == "error" {
			continue // last, after a colon, as in an error's message
		}
		fmt.Fprintf(&b, "%s%s %s", sep, a.Key, Line(value(a.Value)))
		sep = ", "
	}
	if sep == ", " {
		b.WriteByte(')')
	}
	for _, a := range attrs {
		if a.Key == "error" {
			b.WriteString(": " + Line(a.Value.String()))
		}
	}
	h.m.println(b.String())
	return nil
}

func value(v slog.Value) string {
	if v = v.Resolve(); v.Kind() == slog.KindDuration {
		return v.Duration().Round(time.Millisecond).String()
	}
	return v.String()
}

func (h *handler) WithAttrs(as []slog.Attr) slog.Handler {
	c := *h
	c.attrs = slices.Clone(h.attrs)
	for _, a := range as {
		a.Key = h.group + a.Key
		c.attrs = append(c.attrs, a)
	}
	return &c
}

func (h *handler) WithGroup(name string) slog.Handler {
	c := *h
	c.group += name + "."
	return &c
}
