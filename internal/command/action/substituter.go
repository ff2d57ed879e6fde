package action

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nix-community/go-nix/pkg/nixbase32"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/signing"
)

// Times for the proxy. It starts also where the registry does not answer, after
// having tried.
const (
	proxyStart = 90 * time.Second
	proxyStop  = 15 * time.Second
)

// substitute starts a proxy that outlives the step, and has Nix ask it in this
// step and the later ones.
func (s *session) substitute(ctx context.Context) error {
	given, err := s.givenKeys()
	if err != nil {
		return err
	}
	if err := s.startProxy(ctx, given); err != nil {
		return err
	}
	keys, err := s.publicKeys(ctx)
	if err != nil {
		return err
	}
	s.state.Keys = keys
	if err := s.saveState(); err != nil {
		return err
	}
	v, err := s.nix().Version(ctx)
	if err != nil {
		return hint.Wrap(err, "place this step after the one that installs Nix")
	}
	conf, err := confText(s.state.URL, keys, v)
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.confFile(), []byte(conf), 0o644); err != nil { //nolint:gosec // a daemon's user may read it
		return fmt.Errorf("writing Nix's configuration: %w", err)
	}
	if err := errors.Join(s.output("substituter", s.state.URL), s.output("public-key", strings.Join(keys, " "))); err != nil {
		return err
	}
	return s.configureNix(ctx)
}

// startProxy starts the proxy with the keys that were given, and waits until it
// serves.
func (s *session) startProxy(ctx context.Context, keys []string) error {
	log, err := os.OpenFile(s.proxyLog(), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("starting the proxy: %w", err)
	}
	defer log.Close()
	out, in, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("starting the proxy: %w", err)
	}
	defer out.Close()
	// nobody looks at pages there, but every build of the job could
	cmd := exec.Command(s.program, proxyCommand, "--listen", "127.0.0.1:0", "--page", "off")
	cmd.Env = append(s.cfg.environ(proxyCommand, s.env), "GITHUB_ACTIONS=") // its log is a file
	if len(keys) > 0 {
		cmd.Env = append(cmd.Env, cli.EnvName("trusted-key")+"="+strings.Join(keys, "\n")+"\n")
	}
	cmd.Stdout, cmd.Stderr = in, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	in.Close()
	if err != nil {
		return fmt.Errorf("starting the proxy: %w", err)
	}
	s.state.PID = cmd.Process.Pid
	_ = out.SetReadDeadline(time.Now().Add(proxyStart))
	stop := context.AfterFunc(ctx, func() { _ = out.SetReadDeadline(time.Now()) })
	defer stop()
	line, err := bufio.NewReader(out).ReadString('\n')
	url, ok := strings.CutPrefix(strings.TrimSpace(line), bincache.SettingSubstituters+" = ")
	if err != nil || !ok {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		printed, _ := os.ReadFile(s.proxyLog())
		return fmt.Errorf("starting the proxy: %w: %s", errors.Join(context.Cause(ctx), err), strings.TrimSpace(string(printed)))
	}
	s.state.URL = url
	if err := errors.Join(s.saveState(), cmd.Process.Release()); err != nil {
		return err
	}
	s.msg.Printf("the cache is a substituter: %s", url)
	return nil
}

func (s *session) proxyLog() string { return filepath.Join(s.state.Dir, "proxy.log") }
func (s *session) confFile() string { return filepath.Join(s.state.Dir, "nix.conf") }

// givenKeys are those of the step's own secret keys and those it was given.
func (s *session) givenKeys() ([]string, error) {
	own, err := signing.Load(nil, s.cfg.text["signing-key"])
	if err != nil {
		return nil, err
	}
	return own.Trusted(strings.Fields(s.cfg.text["trusted-keys"]))
}

// publicKeys are the keys that the job's Nix is to trust: those that were given to
// the proxy, and those for which they vouch. Only without any are they those that
// the cache names, where whoever can write to it can put his: what such a job
// takes from the cache, nobody signs.
func (s *session) publicKeys(ctx context.Context) ([]string, error) {
	status, body, err := s.ask(ctx, http.MethodGet, "/public-key")
	switch {
	case err != nil:
		return nil, err
	case status == http.StatusNotFound:
		return nil, nil
	case status != http.StatusOK:
		return nil, hint.Wrap(fmt.Errorf("asking the proxy for the cache's keys: %s", strings.TrimSpace(body)), "`nixoci keys list` shows which were retired")
	}
	keys := strings.Fields(body)
	slices.Sort(keys)
	return slices.Compact(keys), nil
}

// confText are the lines for Nix. A cache without keys is trusted, because it
// would be of no use to the job otherwise; the README says so.
func confText(url string, keys []string, v nix.Version) (string, error) {
	lines, err := bincache.Substituter{URL: url, PublicKeys: keys}.Lines()
	// what another job publishes meanwhile must not stay unseen for an hour
	lines += "narinfo-cache-negative-ttl = 0\n"
	if v.HasCacheInfoTTL() { // then Nix goes on without a proxy that has died
		lines += "narinfo-cache-meta-ttl = 0\n"
	}
	return lines, err
}

// configureNix has Nix read the file with the lines, in this step and the later
// ones, and makes sure that it does ask the proxy then. The lines are in a file
// of the step, so that the end of the job undoes them even if nothing else can.
func (s *session) configureNix(ctx context.Context) error {
	if err := s.addEnv("NIX_USER_CONF_FILES", s.confFile()+":"+s.userConfFiles()); err != nil {
		return err
	}
	err := s.tryOut(ctx)
	if err != nil { // Nix would warn of it in each command
		return errors.Join(err, os.Truncate(s.confFile(), 0))
	}
	return nil
}

// tryOut makes sure that Nix asks the proxy.
func (s *session) tryOut(ctx context.Context) error {
	asked, err := s.isAsked(ctx)
	if err == nil && !asked && s.lookup("NIX_CONFIG") != "" {
		// it wins over all files, and may set substituters
		if err = s.addEnv("NIX_CONFIG", s.lookup("NIX_CONFIG")+"\n!include "+s.confFile()); err == nil {
			asked, err = s.isAsked(ctx)
		}
	}
	if err != nil {
		return err
	}
	if !asked {
		return hint.Wrap(errors.New("it is never asked: the Nix daemon does not trust this user, who may not add substituters"),
			"publishing works all the same; to use the cache as well, add the user to trusted-users in /etc/nix/nix.conf before the daemon starts "+
				"(cachix/install-nix-action: extra_nix_config: trusted-users = root runner)")
	}
	return nil
}

// userConfFiles are the user's configuration files: what Nix reads without the
// variable, if it is not set.
func (s *session) userConfFiles() string {
	if files := s.lookup("NIX_USER_CONF_FILES"); files != "" {
		return files
	}
	home := s.lookup("XDG_CONFIG_HOME")
	if home == "" {
		home = filepath.Join(s.lookup("HOME"), ".config")
	}
	dirs := s.lookup("XDG_CONFIG_DIRS")
	if dirs == "" {
		dirs = "/etc/xdg"
	}
	var files []string
	for _, dir := range append([]string{home}, filepath.SplitList(dirs)...) {
		files = append(files, filepath.Join(dir, "nix", "nix.conf"))
	}
	return strings.Join(files, ":")
}

// lookup is a variable of the environment that the commands get.
func (s *session) lookup(name string) string {
	for _, kv := range slices.Backward(s.env) {
		if k, v, _ := strings.Cut(kv, "="); k == name {
			return v
		}
	}
	return ""
}

// addEnv sets a variable for the commands of this step, and for later steps.
func (s *session) addEnv(name, value string) error {
	s.env = append(s.env, name+"="+value)
	return set(s.getenv, "GITHUB_ENV", name, value)
}

// isAsked finds out whether Nix asks the proxy, by having it look for a store
// path that nobody has. It is the only way to know that is the same for every
// version, with the daemon and without.
func (s *session) isAsked(ctx context.Context) (bool, error) {
	client := s.nix()
	dir, err := client.StoreDir(ctx)
	if err != nil {
		return false, err
	}
	if err := s.sameStore(ctx, dir); err != nil {
		return false, err
	}
	random := make([]byte, 20)
	_, _ = rand.Read(random) // never fails
	hash := nixbase32.EncodeToString(random)
	before, err := s.misses(ctx)
	if err != nil {
		return false, err
	}
	if err := client.Seek(ctx, dir+"/"+hash+"-nixoci-probe"); err != nil {
		return false, err
	}
	after, err := s.misses(ctx)
	return after > before, err
}

// sameStore makes sure that the cache is for Nix's store directory: a cache for
// another one is of no use, and Nix leaves it alone.
func (s *session) sameStore(ctx context.Context, dir string) error {
	_, body, err := s.ask(ctx, http.MethodGet, "/nix-cache-info")
	if err != nil {
		return err
	}
	if of := bincache.ParseInfo(body).StoreDir; of != "" && of != dir {
		return fmt.Errorf("the cache is for the store %s, and Nix's store is %s", of, dir)
	}
	return nil
}

// misses is how often the proxy was asked for what it has not.
func (s *session) misses(ctx context.Context) (int64, error) {
	status, body, err := s.ask(ctx, http.MethodGet, "/_status")
	if err != nil {
		return 0, err
	}
	var report struct {
		Served struct{ NarinfoMisses int64 }
	}
	if err := json.Unmarshal([]byte(body), &report); status != http.StatusOK || err != nil {
		return 0, fmt.Errorf("asking the proxy for its status: %d, %w", status, err)
	}
	return report.Served.NarinfoMisses, nil
}

const askTimeout = 30 * time.Second

// ask sends a request to the proxy.
func (s *session) ask(ctx context.Context, method, path string) (int, string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.state.URL+path, nil)
	if err != nil {
		return 0, "", fmt.Errorf("asking the proxy: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", fmt.Errorf("asking the proxy: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReport))
	if err != nil {
		return 0, "", fmt.Errorf("asking the proxy: %w", err)
	}
	return resp.StatusCode, string(body), nil
}

// endSubstituter undoes the configuration, then stops the proxy: Nix fails
// builds when a substituter that it knows has gone. The variables that name the
// file stay, and name an empty one.
func (s *session) endSubstituter() {
	if s.state.URL == "" {
		return
	}
	if err := os.Truncate(s.confFile(), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.msg.Warn(fmt.Errorf("undoing Nix's configuration: %w", err))
		return // then the proxy must stay
	}
	ctx, cancel := context.WithTimeout(context.Background(), proxyStop)
	defer cancel()
	if _, err := s.misses(ctx); err != nil {
		s.showProxyLog("the proxy has gone before the job's end")
		return
	}
	if err := syscall.Kill(s.state.PID, syscall.SIGTERM); err != nil {
		s.msg.Warn(fmt.Errorf("stopping the proxy: %w", err))
		return
	}
	for t := time.NewTicker(20 * time.Millisecond); ; {
		if _, err := s.misses(ctx); err != nil && ctx.Err() == nil {
			return
		}
		select {
		case <-ctx.Done():
			_ = syscall.Kill(s.state.PID, syscall.SIGKILL)
			s.showProxyLog("the proxy did not stop by itself")
			return
		case <-t.C:
		}
	}
}

// showProxyLog prints what the proxy had to say.
func (s *session) showProxyLog(title string) {
	defer s.msg.Group("%s", title)()
	log := s.msg.Log()
	defer log.Close()
	if text, err := os.ReadFile(s.proxyLog()); err == nil {
		_, _ = log.Write(text)
	}
}
