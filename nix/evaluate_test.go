package nix

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/nix/nixtest"
)

// evaluated is what testdata/evaluate.nix returns.
type evaluated struct {
	Failed, Warnings []string
	Settings         map[string]any
	Ports            []int
	Service          *service
	UserService      map[string]map[string]any
	Daemon           *struct {
		Command       string
		Environment   map[string]string
		ServiceConfig map[string]any
	}
	Agent *struct {
		Enable bool
		Config struct {
			ProgramArguments     []string
			EnvironmentVariables map[string]string
			KeepAlive, RunAtLoad bool
		}
	}
	Users struct {
		KnownUsers, KnownGroups []string
		Users                   map[string]struct{ Home string }
	}
}

// service is one of systemd.services of NixOS.
type service struct {
	Description           string
	Documentation         []string
	WantedBy, Wants       []string
	After                 []string
	StartLimitIntervalSec int
	Environment           map[string]string
	ServiceConfig         map[string]any
}

// evaluate evaluates a configuration, options of services.nixoci-proxy, with one
// of the modules.
func evaluate(t *testing.T, module, system, options string) evaluated {
	t.Helper()
	return evaluateConfig(t, module, system, "services.nixoci-proxy = {\nenable = true;\npackage = \"/opt/nixoci\";\n"+options+"\n};")
}

func evaluateConfig(t *testing.T, module, system, config string) evaluated {
	t.Helper()
	out, err := tryEvaluate(t, module, system, config)
	if err != nil {
		t.Fatal(err)
	}
	var e evaluated
	if err := json.Unmarshal(out, &e); err != nil {
		t.Fatal(err)
	}
	return e
}

func tryEvaluate(t *testing.T, module, system, config string) ([]byte, error) {
	t.Helper()
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	env := nixtest.New(t)
	cmd := exec.Command("nix-instantiate", "--eval", "--strict", "--json", "--expr",
		fmt.Sprintf("import %s/testdata/evaluate.nix { module = %s/%s; system = %q; config = {\n%s\n}; }", here, here, module, system, config))
	cmd.Env = env.Vars
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("evaluating %s: %w\n%s", module, err, stderr.String())
	}
	return out, nil
}

// unit is the text that NixOS makes of a service, by the same rules.
func (s *service) unit() string {
	var b strings.Builder
	b.WriteString("[Unit]\n")
	line(&b, "After", strings.Join(s.After, " "))
	line(&b, "Description", s.Description)
	line(&b, "Documentation", strings.Join(s.Documentation, " "))
	line(&b, "StartLimitIntervalSec", s.StartLimitIntervalSec)
	line(&b, "Wants", strings.Join(s.Wants, " "))
	b.WriteString("\n[Service]\n")
	for _, name := range sorted(s.Environment) {
		quoted, _ := json.Marshal(name + "=" + s.Environment[name])
		line(&b, "Environment", string(quoted))
	}
	for _, key := range sorted(s.ServiceConfig) {
		line(&b, key, s.ServiceConfig[key])
	}
	b.WriteString("\n[Install]\n")
	line(&b, "WantedBy", strings.Join(s.WantedBy, " "))
	return b.String()
}

// userUnit is the text that home-manager makes of a service.
func userUnit(sections map[string]map[string]any) string {
	var b strings.Builder
	for _, name := range sorted(sections) {
		fmt.Fprintf(&b, "[%s]\n", name)
		for _, key := range sorted(sections[name]) {
			line(&b, key, sections[name][key])
		}
	}
	return b.String()
}

// line writes a setting: a list as many of them, true and false as they are.
func line(b *strings.Builder, key string, value any) {
	list, ok := value.([]any)
	if !ok {
		list = []any{value}
	}
	for _, item := range list {
		fmt.Fprintf(b, "%s=%v\n", key, item)
	}
}
