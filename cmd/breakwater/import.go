package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/bmatcuk/doublestar/v4"
	"github.com/spf13/cobra"
)

func importCommand() *cobra.Command {
	c := &cobra.Command{Use: "import", Short: "Copy images from other registries into the hub"}
	c.AddCommand(importRegistry())
	return c
}

// importOptions are the flags of `import registry`.
type importOptions struct {
	source   sourceOptions
	hub      hubFlags
	hubCA    string
	place    placement
	choose   choice
	jobs     int
	dryRun   bool
	keep     bool // tags that the hub has stay where they point
	refers   bool
	state    string
	chunkMiB int64
}

func importRegistry() *cobra.Command {
	var o importOptions
	var format outputFormat
	var passwordStdin bool
	c := &cobra.Command{
		Use:   "registry URL [REPOSITORY[:TAG]...]",
		Short: "Copy repositories of a registry into the hub, byte for byte",
		Long: `Copy repositories of a registry into the hub, byte for byte.

Without repositories the source is asked for its catalog, which most public
registries refuse. Indexes come with all their platforms, images with their
signatures, attestations and whatever else refers to them. What the hub has
already is not copied again, so that the same command goes on where an earlier
run ended, or was killed, within a large layer too; and run again later it
brings what has changed. At the end each tag is compared with the source's once
more.

Untagged images cannot be found in a registry, and are left behind unless
something refers to them. Docker's schema 1 is not supported by the hub.

Credentials of the source are those of --src-username, else of Docker's
configuration (docker login); for the hub, those of breakwater login. The exit
status is 0 when all that was chosen is in the hub, and the same as at the source.`,
		Example: `  breakwater import registry https://harbor.example --dry-run
  breakwater import registry registry.example:5000 team/app team/web:v1.2
  breakwater import registry http://10.0.0.5:5000 --repo 'team/**' --tag 'v*' --exclude '**:*-rc*'
  breakwater import registry docker.io acme/api acme/web --semver '>=2' --newest 10 --project acme
  breakwater import registry https://old.example --strip-prefix library --project team
  echo "$PASSWORD" | breakwater import registry https://old.example --src-username robot --src-password-stdin --jobs 8
  breakwater import registry https://old.example -o json > report.json`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			o.source.url, o.choose.named = args[0], args[1:]
			if passwordStdin != (o.source.username != "") {
				return errors.New("--src-username and --src-password-stdin go together")
			}
			if passwordStdin {
				var err error
				if o.source.password, err = readPassword(c, true); err != nil {
					return err
				}
			}
			if err := o.check(); err != nil {
				return err
			}
			p := newProgress(c.ErrOrStderr())
			report, err := runImport(c.Context(), o, p)
			p.end()
			if report == nil {
				return err
			}
			printed := format.print(c.OutOrStdout(), report, report.draw)
			return errors.Join(printed, err, report.verdict())
		},
	}
	f := c.Flags()
	f.StringVar(&o.source.username, "src-username", "", "who you are at the source (default: as Docker's configuration says)")
	f.BoolVar(&passwordStdin, "src-password-stdin", false, "read the source's password from standard input")
	f.StringVar(&o.source.caFile, "src-ca-file", "", "PEM file of an authority that the source's certificate is by")
	f.StringVar(&o.hub.hub, "to", "", "the hub's URL (default: BREAKWATER_HUB, else as logged in)")
	f.StringVar(&o.hubCA, "to-ca-file", "", "PEM file of an authority that the hub's certificate is by")
	f.StringVar(&o.place.project, "project", "", "put repositories into this project: team/app becomes PROJECT/team/app")
	f.StringVar(&o.place.prefix, "prefix", "", "the same with a longer path: team/app becomes PREFIX/team/app")
	f.StringVar(&o.place.strip, "strip-prefix", "", "take this path off repositories first: team/app becomes app")
	f.StringArrayVar(&o.choose.repos, "repo", nil, "only repositories like this: team/* or team/** (may be repeated)")
	f.StringArrayVar(&o.choose.tags, "tag", nil, "only tags like this: v1.* (may be repeated)")
	f.StringVar(&o.choose.semver, "semver", "", "only tags that are versions in this range: '>=1.2 <2', '~1.4'; with -0 pre-releases too: '>=1.2-0'")
	f.IntVar(&o.choose.newest, "newest", 0, "of each repository only so many tags, the newest of those that are left")
	f.StringVar(&o.choose.newestBy, "newest-by", byVersion, "what newest means: version, or date (when built; reads each image's config)")
	f.StringArrayVar(&o.choose.exclude, "exclude", nil, "not what is like this: a repository, or repository:tag, ** for any (may be repeated)")
	f.BoolVar(&o.refers, "referrers", true, "copy signatures and all else that refers to an image, whichever tags are chosen")
	f.BoolVar(&o.keep, "keep-existing", false, "leave tags alone that the hub has and that point elsewhere")
	f.IntVar(&o.jobs, "jobs", 4, "how many images, and how many blobs, are copied at once")
	f.BoolVar(&o.dryRun, "dry-run", false, "only say what would be copied; reads the source's manifests")
	f.StringVar(&o.state, "state", "", "file that remembers unfinished uploads (default: in the user's state folder)")
	f.Int64Var(&o.chunkMiB, "chunk-mib", 32, "largest piece of a blob that is sent at once; what is lost when a connection breaks")
	format.flag(c)
	return c
}

// check refuses flags that make no sense.
func (o *importOptions) check() error {
	var errs []error
	for _, p := range [][]string{o.choose.repos, o.choose.tags, o.choose.exclude} {
		for _, pattern := range p {
			repo, tag, _ := strings.Cut(pattern, ":")
			if !doublestar.ValidatePattern(repo) || !doublestar.ValidatePattern(tag) {
				errs = append(errs, fmt.Errorf("%q is not a pattern; want one like team/** or v1.*", pattern))
			}
		}
	}
	if o.place.project != "" && o.place.prefix != "" {
		errs = append(errs, errors.New("--project and --prefix are the same; give one"))
	}
	if strings.Contains(o.place.project, "/") {
		errs = append(errs, errors.New("a project has no slash in its name; --prefix takes a path"))
	}
	if _, err := semver.NewConstraint(cmp.Or(o.choose.semver, "*")); err != nil {
		errs = append(errs, fmt.Errorf("--semver %q is not a range of versions; want one like '>=1.2 <2' or '~1.4'", o.choose.semver))
	}
	if o.choose.newest < 0 || !slices.Contains([]string{byVersion, byDate}, o.choose.newestBy) {
		errs = append(errs, errors.New("--newest is a number, --newest-by is version or date"))
	}
	if o.jobs < 1 || o.chunkMiB < 1 {
		errs = append(errs, errors.New("--jobs and --chunk-mib are at least 1"))
	}
	return errors.Join(errs...)
}

// runImport copies what the options choose. The report is nil when nothing was
// begun; with an error besides, it is of as far as it came.
func runImport(ctx context.Context, o importOptions, p *progress) (*importReport, error) {
	src, err := openSource(o.source)
	if err != nil {
		return nil, err
	}
	src.wait.told = p.waiting
	who, err := o.hub.login()
	if err != nil {
		return nil, err
	}
	dst, err := openTarget(who, o.hubCA)
	if err != nil {
		return nil, err
	}
	dst.wait.told = p.waiting
	if o.state == "" {
		if o.state, err = statePath(src.url, dst.base.String(), o.place); err != nil {
			return nil, err
		}
	}
	state, err := openState(o.state, o.dryRun)
	if err != nil {
		return nil, err
	}
	c := &copier{
		src: src, dst: dst, state: state, progress: p, o: o, chunkBytes: o.chunkMiB << 20,
		blobs: make(chan struct{}, o.jobs), report: &importReport{Source: src.url, Hub: dst.base.String(), DryRun: o.dryRun},
	}
	err = c.run(ctx)
	if ctx.Err() != nil {
		err = errors.New("interrupted; the same command goes on from here")
	}
	c.report.finish()
	return c.report, errors.Join(err, state.close(err == nil && c.report.verdict() == nil))
}

// placement says what a repository is called in the hub.
type placement struct{ project, prefix, strip string }

// name is the hub's name for a repository of the source. It may be one that a
// hub does not take.
func (p placement) name(repo string) (string, error) {
	name := repo
	if strip := strings.Trim(p.strip, "/"); strip != "" {
		rest, ok := strings.CutPrefix(repo, strip+"/")
		if !ok {
			return "", fmt.Errorf("%s is not below --strip-prefix %s", repo, strip)
		}
		name = rest
	}
	if prefix := strings.Trim(p.project+p.prefix, "/"); prefix != "" {
		name = prefix + "/" + name
	}
	return name, nil
}

// userStateDir is where programs keep what they can do without (XDG base
// directory specification).
func userStateDir() (string, error) {
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return dir, nil
	}
	home, err := os.UserHomeDir()
	return home + "/.local/state", err
}
