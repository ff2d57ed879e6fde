package cli

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"time"
)

// EnvPrefix starts the environment variable of every flag.
const EnvPrefix = "NIXOCI_"

// EnvName is the environment variable of a flag: "sign-key-file" has
// NIXOCI_SIGN_KEY_FILE.
func EnvName(flagName string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(flagName, "-", "_"))
}

// Flags defines a command's flags and parses them. Each has an environment
// variable, named by EnvName, which is used where the flag is not given; an
// empty variable counts as unset.
//
// In a usage text the name of the value stands in backquotes, as in package
// flag.
type Flags struct {
	command *Command
	set     *flag.FlagSet
	getenv  func(string) string
	defined []definition // in the order of definition, which is the order of the help
	// cacheErr tells why --cache has no default. It matters only if neither
	// the flag nor the variable is given.
	cacheErr error
}

type definition struct {
	flag       *flag.Flag
	env        string
	repeatable bool
	lines      bool // only newlines separate values
	local      bool // the default is of this machine or job
}

func (f *Flags) define(name string, repeatable bool) {
	f.defined = append(f.defined, definition{flag: f.set.Lookup(name), env: EnvName(name), repeatable: repeatable})
}

// String defines a flag for a string.
func (f *Flags) String(p *string, name, value, usage string) {
	f.set.StringVar(p, name, value, usage)
	f.define(name, false)
}

// Bool defines a flag that is false by default.
func (f *Flags) Bool(p *bool, name, usage string) {
	f.set.BoolVar(p, name, false, usage)
	f.define(name, false)
}

// Int defines a flag for a whole number.
func (f *Flags) Int(p *int, name string, value int, usage string) {
	f.set.IntVar(p, name, value, usage)
	f.define(name, false)
}

// Duration defines a flag for a duration, written as by ParseDuration.
func (f *Flags) Duration(p *time.Duration, name string, value time.Duration, usage string) {
	*p = value
	f.set.Var((*durationValue)(p), name, usage)
	f.define(name, false)
}

// Size defines a flag for a number of bytes, written as by ParseSize.
func (f *Flags) Size(p *int64, name string, value int64, usage string) {
	*p = value
	f.set.Var((*sizeValue)(p), name, usage)
	f.define(name, false)
}

// Choice defines a flag for one of several words. The first is the default.
func (f *Flags) Choice(p *string, name string, words []string, usage string) {
	*p = words[0]
	f.set.Var(&choiceValue{p, words}, name, usage)
	f.define(name, false)
}

// Strings defines a flag that can be given several times, each time with one
// value. The first replaces the default.
//
// In the environment the values stand one in each line or, if the variable has
// no newline, are separated by spaces. A single value with a space in it is
// therefore written with a newline at its end. Commas separate nothing: they
// occur in globs and in file names.
func (f *Flags) Strings(p *[]string, name string, value []string, usage string) {
	*p = value
	f.set.Var(&listValue{p: p}, name, usage)
	f.define(name, true)
}

// CacheDir defines --cache-dir, which all commands have alike. Without a home the
// default is empty: there are no copies then, which costs time only.
func (f *Flags) CacheDir(p *string) {
	dir, _ := CacheDir(f.getenv)
	f.String(p, "cache-dir", dir, "`DIR` for local copies of the cache's index")
	f.defined[len(f.defined)-1].local = true
}

// Cache defines --cache, which all commands have alike. The default is that of
// DefaultCache.
func (f *Flags) Cache(p *string) {
	value, err := DefaultCache(f.getenv)
	f.cacheErr = err
	f.String(p, "cache", value, "`CACHE`: HOST/NAME in a registry, or oci:DIR for a directory in the OCI image layout")
	f.defined[len(f.defined)-1].local = true
}

// Caches defines --cache for a command that takes several. If none is given *p
// is empty, and DefaultCache tells what is meant. In the environment they stand
// one in each line: the name of a directory may have spaces in it.
func (f *Flags) Caches(p *[]string, usage string) {
	f.Strings(p, "cache", nil, usage)
	f.defined[len(f.defined)-1].lines = true
}

// Parse parses the arguments, which may stand before, between and after the
// flags, and returns them; everything after "--" is an argument. Then flags
// not given are taken from the environment.
//
// All errors have the status ExitUsage, except that --help and --version
// return an error which makes Report print the text and return ExitDone.
func (f *Flags) Parse(args []string) ([]string, error) {
	var help helpForm
	var showVersion bool
	f.set.Var(&help, "help", "")
	f.set.Var(&help, "h", "")
	f.set.BoolVar(&showVersion, "version", false, "")

	rest, err := f.parseArgs(args)
	switch {
	case help != "":
		return nil, &output{f.helpAs(help)}
	case showVersion:
		return nil, &output{Name + " " + Version() + "\n"}
	case err != nil:
		return nil, f.Usage(err)
	}
	return rest, f.Usage(f.parseEnv())
}

func (f *Flags) parseArgs(args []string) (rest []string, err error) {
	for {
		if err := f.set.Parse(args); err != nil {
			return nil, spelled(err)
		}
		left := f.set.Args()
		if len(left) == 0 {
			return rest, nil
		}
		if i := len(args) - len(left) - 1; i >= 0 && args[i] == "--" {
			return append(rest, left...), nil
		}
		rest, args = append(rest, left[0]), left[1:]
	}
}

// spelled puts two dashes before flag names in the messages of package flag.
func spelled(err error) error {
	return errors.New(strings.NewReplacer(
		"flag provided but not defined: -", "unknown flag --",
		"for flag -", "for --",
		"for -", "for --",
		"flag needs an argument: -", "a value is missing after --",
	).Replace(err.Error()))
}

func (f *Flags) parseEnv() error {
	given := map[string]bool{}
	f.set.Visit(func(fl *flag.Flag) { given[fl.Name] = true })
	var errs []error
	for _, d := range f.defined {
		if given[d.flag.Name] {
			continue
		}
		text := f.getenv(d.env)
		if text == "" {
			if d.flag.Name == "cache" {
				errs = append(errs, f.cacheErr)
			}
			continue
		}
		values := []string{text}
		switch {
		case d.lines:
			values = splitList(text + "\n")
		case d.repeatable:
			values = splitList(text)
		}
		for _, v := range values {
			if err := f.set.Set(d.flag.Name, v); err != nil {
				errs = append(errs, fmt.Errorf("invalid value %q for %s: %w", v, d.env, err))
			}
		}
	}
	return errors.Join(errs...)
}

func splitList(text string) []string {
	if !strings.Contains(text, "\n") {
		return strings.Fields(text)
	}
	var values []string
	for line := range strings.SplitSeq(text, "\n") {
		if line = strings.TrimSpace(line); line != "" {
			values = append(values, line)
		}
	}
	return values
}

type listValue struct {
	p   *[]string
	set bool
}

func (v *listValue) String() string {
	if v.p == nil {
		return ""
	}
	return strings.Join(*v.p, " ")
}

func (v *listValue) Set(s string) error {
	if s == "" {
		return errors.New("empty")
	}
	if !v.set {
		*v.p, v.set = nil, true // never append to the default's array
	}
	*v.p = append(*v.p, s)
	return nil
}

type choiceValue struct {
	p     *string
	words []string
}

func (v *choiceValue) String() string {
	if v.p == nil {
		return ""
	}
	return *v.p
}

func (v *choiceValue) Set(s string) error {
	if !slices.Contains(v.words, s) {
		return fmt.Errorf("must be one of %s", strings.Join(v.words, ", "))
	}
	*v.p = s
	return nil
}
