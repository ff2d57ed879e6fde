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
	line := func(key string, value any) {
		switch v := value.(type) {
		case nil:
		case []any:
			for _, item := range v {
				fmt.Fprintf(&b, "%s=%v\n", key, item)
			}
		default: // true and false as they are
			fmt.Fprintf(&b, "%s=%v\n", key, v)
		}
	}
	b.WriteString("[Unit]\n")
	line("After", strings.Join(s.After, " "))
	line("Description", s.Description)
	line("Documentation", strings.Join(s.Documentation, " "))
	line("StartLimitIntervalSec", s.StartLimitIntervalSec)
	line("Wants", strings.Join(s.Wants, " "))
	b.WriteString("\n[Service]\n")
	for _, name := range sorted(s.Environment) {
		quoted, _ := json.Marshal(name + "=" + s.Environment[name])
		line("Environment", string(quoted))
	}
	for _, key := range sorted(s.ServiceConfig) {
		line(key, s.ServiceConfig[key])
	}
	fmt.Fprintf(&b, "\n[Install]\nWantedBy=%s\n", strings.Join(s.WantedBy, " "))
	return b.String()
}
