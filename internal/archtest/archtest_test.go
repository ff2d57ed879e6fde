// Package archtest has the rules between the module's packages, and checks them.
// They stand nowhere else.
package archtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	module   = "github.com/org/nixoci-action"
	commands = "internal/command"
	// bench is a command too, which is not delivered.
	bench = "internal/bench"
)

// domain are the packages with the knowledge of what the program is about, and
// the ones among them that each may use. Otherwise: commands -> domain -> internal.
// One below another is a room of its own if it stands here, else it is part of
// the other.
var domain = map[string][]string{
	"bincache": nil,
	"upstream": {"bincache"},
	"discover": nil,
	"closure":  {"upstream"},
	"upload":   {"bincache", "closure"},
	"index":    {"bincache", "index/format"},
	"proxy":    {"bincache", "index", "index/format", "proxy/blobs", "proxy/push", "upstream"},
	"page":     {"bincache", "index", "index/collect", "index/format"},
	"matrix":   {"discover"},
	"publish":  {"bincache", "closure", "discover", "index", "index/collect", "index/format", "index/migrate", "matrix", "report", "upload", "upstream"},
	"report":   {"closure", "index", "index/collect", "index/format", "index/migrate", "matrix"},
	"summary":  {"bincache", "index", "index/collect", "index/format", "matrix", "report"},

	"index/format":  {"bincache"},
	"index/collect": {"bincache", "index", "index/format"},
	"index/migrate": {"bincache", "index", "index/format"},

	"proxy/blobs": {"bincache", "index", "index/format"},
	"proxy/push":  {"bincache", "index", "index/format"},
	"proxy/many":  {"bincache", "index", "index/format", "proxy", "proxy/blobs"},
}

// room is the domain package that a package is or belongs to, "" if it is none.
func room(pkg string) string {
	for {
		if _, ok := domain[pkg]; ok {
			return pkg
		}
		i := strings.LastIndexByte(pkg, '/')
		if i < 0 {
			return ""
		}
		pkg = pkg[:i]
	}
}

// only lists libraries for which one place was chosen; commands may use them too.
var only = map[string][]string{
	"github.com/schollz/progressbar/v3":     {"internal/ui"},
	"github.com/sethvargo/go-githubactions": {"internal/ui"},
}

// command tells the packages that put the others together: flags and wiring, and
// the mains that start them.
func command(pkg string) bool {
	return strings.HasPrefix(pkg, "cmd/") || pkg == commands || strings.HasPrefix(pkg, commands+"/") || pkg == bench
}

// testdouble tells packages that exist for tests, by their names.
func testdouble(pkg string) bool {
	return strings.HasPrefix(pkg, "internal/") && strings.HasSuffix(pkg, "test")
}

// mayImport says whether one package of the module may import another, and if
// not, why.
func mayImport(from, to string) error {
	user, target := room(from), room(to)
	switch {
	case strings.HasPrefix(to, "cmd/"):
		return errors.New("nothing imports a main")
	case command(to) && from != commands && !strings.HasPrefix(from, "cmd/"):
		return errors.New("commands are put together by internal/command and cmd only")
	case testdouble(to) && !testdouble(from) && from != bench:
		return errors.New("it is for tests")
	case from == "internal/ui" && to != "internal/hint":
		return errors.New("ui knows none of the things that it shows")
	case command(from) || testdouble(from) || target == "" || user == target:
		return nil
	case user == "":
		return errors.New("internal packages know nothing of the domain")
	case !slices.Contains(domain[user], target):
		return errors.New("these two do not know each other")
	}
	return nil
}

type goPackage struct {
	ImportPath                         string
	Dir                                string
	GoFiles                            []string
	Imports, TestImports, XTestImports []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Dir,GoFiles,Imports,TestImports,XTestImports", module+"/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 5 {
		t.Fatalf("go list found %d packages only", len(all))
	}
	return all
}

func local(path string) (string, bool) {
	return strings.CutPrefix(path, module+"/")
}

func TestImportDirection(t *testing.T) {
	for _, p := range packages(t) {
		from, _ := local(p.ImportPath)
		for _, i := range p.Imports {
			if to, ok := local(i); ok {
				if err := mayImport(from, to); err != nil {
					t.Errorf("%s imports %s: %v", from, to, err)
				}
			}
			if places, ok := only[i]; ok && !slices.Contains(places, from) && !command(from) {
				t.Errorf("%s imports %s, which is for %s and commands", from, i, strings.Join(places, ", "))
			}
		}
		for _, i := range append(p.TestImports, p.XTestImports...) {
			if to, ok := local(i); ok && command(to) && !command(from) {
				t.Errorf("a test in %s imports %s: it is for commands", from, to)
			}
		}
	}
}

// TestDomainHasNoProcess: domain packages get what they need as arguments.
func TestDomainHasNoProcess(t *testing.T) {
	forbidden := map[string][]string{
		"os":  {"Exit", "Getenv", "LookupEnv", "Environ", "ExpandEnv", "Stdin", "Stdout", "Stderr", "Args"},
		"fmt": {"Print", "Printf", "Println"},
		"log": {"Print", "Printf", "Println", "Fatal", "Fatalf", "Fatalln", "Panic", "Panicf"},
	}
	checked := 0
	for _, p := range packages(t) {
		pkg, _ := local(p.ImportPath)
		if room(pkg) == "" {
			continue
		}
		for _, name := range p.GoFiles {
			checked++
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, bad := range uses(fset, f, forbidden) {
				t.Errorf("%s/%s", pkg, bad)
			}
		}
	}
	if checked == 0 {
		t.Error("no file of a domain package was found")
	}
}

func uses(fset *token.FileSet, f *ast.File, forbidden map[string][]string) []string {
	var found []string
	ast.Inspect(f, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && slices.Contains(forbidden[x.Name], sel.Sel.Name) {
			pos := fset.Position(sel.Pos())
			found = append(found, fmt.Sprintf("%s:%d uses %s.%s", filepath.Base(pos.Filename), pos.Line, x.Name, sel.Sel.Name))
		}
		return true
	})
	return found
}

func TestRules(t *testing.T) {
	tests := []struct {
		from, to string
		ok       bool
	}{
		{"cmd/nixoci", "internal/command", true},
		{"cmd/gc", "internal/command/gc", true},
		{"internal/command", "internal/command/gc", true},
		{"internal/command/publish", "upload", true},
		{"internal/command/publish", "internal/ui", true},
		{"internal/command/publish", "internal/registrytest", false},
		{"internal/command/publish", "internal/command/proxy", false},
		{"internal/command/publish", "internal/command", false},
		{"index", "internal/command/gc", false},
		{"internal/cli", "internal/command", false},
		{"upload", "closure", true},
		{"bincache", "index", false},
		{"bincache", "internal/storepath", true},
		{"upstream", "bincache", true},
		{"upstream", "closure", false},
		{"discover", "upstream", false},
		{"upload", "index", false},
		{"upload", "upload/internal/x", true},
		{"index", "upload", false},
		{"proxy", "index", true},
		{"page", "index", true},
		{"page", "proxy", false},
		{"proxy", "page", false},
		{"summary", "report", true},
		{"report", "summary", false},
		{"matrix", "report", false},
		{"publish", "upload", true},
		{"publish", "summary", false},
		{"index", "index/format", true},
		{"index/format", "index", false},
		{"index", "index/collect", false},
		{"index/migrate", "index", true},
		{"index/collect", "index/migrate", false},
		{"proxy", "index/collect", false},
		{"proxy", "proxy/blobs", true},
		{"proxy/blobs", "index", true},
		{"proxy/blobs", "proxy", false},
		{"proxy/push", "proxy", false},
		{"proxy/many", "proxy", true},
		{"proxy/many", "proxy/push", false},
		{"proxy", "proxy/many", false},
		{"proxy/push", "proxy/blobs", false},
		{"proxy", "internal/registry", true},
		{"internal/registry", "index", false},
		{"internal/registry", "internal/hint", true},
		{"internal/ui", "internal/registry", false},
		{"internal/ui", "internal/hint", true},
		{"internal/publishtest", "upload", true},
		{"internal/bench", "index", true},
		{"internal/bench", "internal/command/publish", false},
		{"internal/publishtest", "internal/command/publish", false},
	}
	for _, tt := range tests {
		if err := mayImport(tt.from, tt.to); (err == nil) != tt.ok {
			t.Errorf("%s -> %s: got %v", tt.from, tt.to, err)
		}
	}
	src := "package p\nimport \"os\"\nfunc f() { os.Exit(1); _ = os.Stdout; os.ReadFile(\"\") }\n"
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "p.go", src, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := uses(fset, f, map[string][]string{"os": {"Exit", "Stdout"}}); len(got) != 2 {
		t.Errorf("got %q, want two uses", got)
	}
}
