package nix

import (
	"bufio"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/nix-community/go-nix/pkg/nixbase32"

	"github.com/org/nixoci-action/internal/storepath"
)

// pathInfoJSON is one path, in any of the shapes.
type pathInfoJSON struct {
	Path             string          `json:"path"` // in a list only
	Valid            *bool           `json:"valid"`
	NarHash          string          `json:"narHash"`
	NarSize          int64           `json:"narSize"`
	References       []string        `json:"references"`
	Deriver          *string         `json:"deriver"`
	Signatures       []string        `json:"signatures"`
	CA               json.RawMessage `json:"ca"`
	Ultimate         bool            `json:"ultimate"`
	RegistrationTime int64           `json:"registrationTime"`
}

// ParsePathInfo decodes what "nix path-info --json" prints, in each of its
// shapes: a list of objects (before 2.19), a map by path, and the map with
// base names and a header (version 2). Paths come back absolute, sorted, each
// once. invalid are the paths that the store does not have. If storeDir is not
// empty, paths in another store directory are an error; it is the directory of
// base names where there is no header. At most 4 GiB are read.
func ParsePathInfo(r io.Reader, storeDir string) (infos []PathInfo, invalid []string, err error) {
	limited := &io.LimitedReader{R: r, N: maxPathInfoSize}
	d := pathInfoDecoder{json: json.NewDecoder(bufio.NewReaderSize(limited, 256<<10)), storeDir: storeDir}
	if err := d.document(); err != nil {
		if limited.N <= 0 {
			err = fmt.Errorf("more than %d bytes", int64(maxPathInfoSize))
		}
		return nil, nil, fmt.Errorf("decoding Nix's path information: %w", err)
	}
	slices.SortFunc(d.infos, func(a, b PathInfo) int { return strings.Compare(a.Path, b.Path) })
	for i := 1; i < len(d.infos); i++ {
		if d.infos[i].Path == d.infos[i-1].Path {
			return nil, nil, fmt.Errorf("decoding Nix's path information: %s is there twice", d.infos[i].Path)
		}
	}
	slices.Sort(d.invalid)
	return d.infos, slices.Compact(d.invalid), nil
}

type pathInfoDecoder struct {
	json     *json.Decoder
	storeDir string // "" until known
	infos    []PathInfo
	invalid  []string
}

func (d *pathInfoDecoder) document() error {
	t, err := d.json.Token()
	if err != nil {
		return unexpectedEnd(err)
	}
	switch t {
	case json.Delim('['):
		err = d.list()
	case json.Delim('{'):
		err = d.object()
	default:
		err = fmt.Errorf("neither a list nor an object, but %v", t)
	}
	if err != nil {
		return unexpectedEnd(err)
	}
	if _, err := d.json.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the end")
	}
	return d.complete()
}

func (d *pathInfoDecoder) list() error {
	for d.json.More() {
		var e pathInfoJSON
		if err := d.json.Decode(&e); err != nil {
			return err
		}
		if err := d.add(e.Path, &e); err != nil {
			return err
		}
	}
	_, err := d.json.Token()
	return err
}

func (d *pathInfoDecoder) object() error {
	for d.json.More() {
		key, err := d.key()
		if err != nil {
			return err
		}
		// no path is named like a key of the header
		switch key {
		case "version":
			var version int
			if err := d.json.Decode(&version); err != nil {
				return err
			}
			if version < 1 || version > 2 {
				return fmt.Errorf("version %d of the format is not known", version)
			}
		case "storeDir":
			var dir string
			if err := d.json.Decode(&dir); err != nil {
				return err
			}
			if err := d.inDir(dir); err != nil {
				return err
			}
		case "info":
			if t, err := d.json.Token(); err != nil || t != json.Delim('{') {
				return cmpErr(err, "info is not an object")
			}
			for d.json.More() {
				name, err := d.key()
				if err != nil {
					return err
				}
				if err := d.entry(name); err != nil {
					return err
				}
			}
			if _, err := d.json.Token(); err != nil {
				return err
			}
		default:
			if err := d.entry(key); err != nil {
				return err
			}
		}
	}
	if _, err := d.json.Token(); err != nil {
		return err
	}
	return nil
}

func (d *pathInfoDecoder) key() (string, error) {
	t, err := d.json.Token()
	if err != nil {
		return "", err
	}
	key, ok := t.(string)
	if !ok {
		return "", fmt.Errorf("%v is not a key", t)
	}
	return key, nil
}

func (d *pathInfoDecoder) entry(name string) error {
	var e *pathInfoJSON
	if err := d.json.Decode(&e); err != nil {
		return err
	}
	return d.add(name, e)
}

// complete makes base names absolute: the header comes after them, in
// alphabetical order.
func (d *pathInfoDecoder) complete() error {
	abs := func(p string) string {
		if p == "" || p[0] == '/' {
			return p
		}
		return d.storeDir + "/" + p
	}
	relative := func(p string) bool { return p != "" && p[0] != '/' }
	for i := range d.infos {
		info := &d.infos[i]
		if d.storeDir == "" && (relative(info.Path) || relative(info.Deriver) || slices.ContainsFunc(info.References, relative)) {
			return fmt.Errorf("%s: no store directory is given", info.Path)
		}
		info.Path, info.Deriver = abs(info.Path), abs(info.Deriver)
		for j, r := range info.References {
			info.References[j] = abs(r)
		}
		slices.Sort(info.References)
	}
	for i, p := range d.invalid {
		if d.storeDir == "" && relative(p) {
			return fmt.Errorf("%s: no store directory is given", p)
		}
		d.invalid[i] = abs(p)
	}
	return nil
}

// path checks a store path or base name.
func (d *pathInfoDecoder) path(s string) error {
	if !strings.HasPrefix(s, "/") {
		_, err := storepath.ParseBase(s)
		return err
	}
	p, err := storepath.Parse(s)
	if err != nil {
		return err
	}
	return d.inDir(p.Dir)
}

// inDir makes sure that everything is in one store directory.
func (d *pathInfoDecoder) inDir(dir string) error {
	if d.storeDir == "" {
		if !storepath.ValidDir(dir) {
			return fmt.Errorf("%q is not a store directory", dir)
		}
		d.storeDir = dir
	}
	if dir != d.storeDir {
		return fmt.Errorf("store directory %q, want %q", dir, d.storeDir)
	}
	return nil
}

func (d *pathInfoDecoder) add(name string, e *pathInfoJSON) error {
	if err := d.path(name); err != nil {
		return err
	}
	if e == nil || e.Valid != nil && !*e.Valid {
		d.invalid = append(d.invalid, name)
		return nil
	}
	fail := func(err error) error { return fmt.Errorf("%s: %w", name, err) }
	info := PathInfo{
		Path: name, NarSize: e.NarSize, References: slices.Compact(slices.Sorted(slices.Values(e.References))),
		Signatures: e.Signatures, Ultimate: e.Ultimate,
	}
	algorithm, sum, err := decodeHash(e.NarHash)
	if err != nil || algorithm != "sha256" {
		return fail(fmt.Errorf("NAR hash %q is not a SHA-256", e.NarHash))
	}
	info.NarHash = "sha256:" + nixbase32.EncodeToString(sum)
	if e.NarSize <= 0 {
		return fail(fmt.Errorf("NAR size %d", e.NarSize))
	}
	for _, r := range info.References {
		if err := d.path(r); err != nil {
			return fail(fmt.Errorf("reference: %w", err))
		}
	}
	if e.Deriver != nil && *e.Deriver != "" {
		info.Deriver = *e.Deriver
		if err := d.path(info.Deriver); err != nil {
			return fail(fmt.Errorf("deriver: %w", err))
		}
	}
	if info.CA, err = decodeCA(e.CA); err != nil {
		return fail(err)
	}
	if e.RegistrationTime > 0 {
		info.Registered = time.Unix(e.RegistrationTime, 0).UTC()
	}
	d.infos = append(d.infos, info)
	return nil
}

// hashSizes are the sizes of the hashes that Nix knows, in bytes.
var hashSizes = map[string]int{"md5": 16, "sha1": 20, "sha256": 32, "sha512": 64, "blake3": 32}

// decodeHash decodes "sha256-<base64>" and "sha256:<base 16, 32 or 64>".
func decodeHash(s string) (algorithm string, sum []byte, err error) {
	i := strings.IndexAny(s, "-:")
	if i < 0 {
		return "", nil, fmt.Errorf("hash %q has no algorithm", s)
	}
	algorithm = s[:i]
	size, ok := hashSizes[algorithm]
	if !ok {
		return "", nil, fmt.Errorf("hash %q has an unknown algorithm", s)
	}
	text := s[i+1:]
	switch {
	case len(text) == base64.StdEncoding.EncodedLen(size):
		sum, err = base64.StdEncoding.Strict().DecodeString(text)
	case s[i] == ':' && len(text) == hex.EncodedLen(size):
		sum, err = hex.DecodeString(text)
	case s[i] == ':' && len(text) == nixbase32.EncodedLen(size):
		sum, err = nixbase32.DecodeString(text)
	default:
		err = errors.New("wrong length")
	}
	if err != nil || len(sum) != size {
		return "", nil, fmt.Errorf("hash %q is not valid", s)
	}
	return algorithm, sum, nil
}

// decodeCA returns a content address in its string form. It comes as that
// string, or as an object with the method and the hash.
func decodeCA(raw json.RawMessage) (string, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return "", nil
	}
	if raw[0] == '"' {
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return "", err
		}
		if !printable(s) {
			return "", fmt.Errorf("content address %q", s)
		}
		return s, nil
	}
	var ca struct{ Method, Hash string }
	if err := json.Unmarshal(raw, &ca); err != nil {
		return "", fmt.Errorf("content address: %w", err)
	}
	prefix, ok := map[string]string{"text": "text:", "flat": "fixed:", "nar": "fixed:r:", "git": "fixed:git:"}[ca.Method]
	if !ok {
		return "", fmt.Errorf("content address of the unknown method %q", ca.Method)
	}
	algorithm, sum, err := decodeHash(ca.Hash)
	if err != nil {
		return "", fmt.Errorf("content address: %w", err)
	}
	return prefix + algorithm + ":" + nixbase32.EncodeToString(sum), nil
}

// printable reports whether s is ASCII without spaces and control characters,
// and so fits a line of a narinfo.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func unexpectedEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func cmpErr(err error, text string) error {
	if err != nil {
		return err
	}
	return errors.New(text)
}
