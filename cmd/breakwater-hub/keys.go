package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/breakwater-oci/breakwater/hub/identity"
)

func keysCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "keys", Short: "Edit a file of keys (encryptionKeyFile)",
		Long: `Edit a file of keys (encryptionKeyFile). The first key signs; all verify. A running hub
sees a change within seconds, and all replicas need the same file.

To rotate: add a key, give the file to all replicas, promote the key, give the file again. Remove
the old key when its tokens are over (30 days for logins that a client keeps).`,
		Example: `  breakwater-hub keys ls keys.pem
  breakwater-hub keys add keys.pem
  breakwater-hub keys promote keys.pem 1c0de45f0b6a9d27
  breakwater-hub keys rm keys.pem 9be2a04d8c31f75e --dry-run`,
	}
	c.AddCommand(keysList(), keysAdd(), keysPromote(), keysRemove())
	return c
}

func keysList() *cobra.Command {
	var format outputFormat
	c := &cobra.Command{
		Use: "ls FILE", Short: "List the keys, the one that signs first", Args: cobra.ExactArgs(1),
		Example: `  breakwater-hub keys ls keys.pem
  breakwater-hub keys ls keys.pem -o json`,
		RunE: func(c *cobra.Command, args []string) error {
			ids, err := identity.KeyIDs(args[0])
			if err != nil {
				return err
			}
			type key struct {
				ID    string `json:"id"`
				Signs bool   `json:"signs"` // else it only verifies
			}
			keys := make([]key, len(ids))
			for i, id := range ids {
				keys[i] = key{id, i == 0}
			}
			if format.json() {
				return printJSON(c.OutOrStdout(), keys)
			}
			for _, k := range keys {
				use := "verifies"
				if k.Signs {
					use = "signs"
				}
				fmt.Fprintf(c.OutOrStdout(), "%s  %s\n", k.ID, use)
			}
			return nil
		},
	}
	format.flag(c)
	return c
}

func keysAdd() *cobra.Command {
	return &cobra.Command{
		Use: "add FILE", Short: "Make a key and put it second; or the file, when there is none", Args: cobra.ExactArgs(1),
		Example: "  breakwater-hub keys add keys.pem",
		RunE: func(c *cobra.Command, args []string) error {
			id, err := identity.AddKey(args[0])
			if err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), id)
			return nil
		},
	}
}

func keysPromote() *cobra.Command {
	return &cobra.Command{
		Use: "promote FILE KEY", Short: "Put a key first, so that it signs", Args: cobra.ExactArgs(2),
		Example: "  breakwater-hub keys promote keys.pem 1c0de45f0b6a9d27",
		RunE:    func(_ *cobra.Command, args []string) error { return identity.PromoteKey(args[0], args[1]) },
	}
}

func keysRemove() *cobra.Command {
	var dryRun bool
	c := &cobra.Command{
		Use: "rm FILE KEY", Short: "Remove a key, but never the only one", Args: cobra.ExactArgs(2),
		Long: "Remove a key, but never the only one. What it signed is refused from then on.",
		Example: `  breakwater-hub keys rm keys.pem 9be2a04d8c31f75e --dry-run
  breakwater-hub keys rm keys.pem 9be2a04d8c31f75e`,
		RunE: func(c *cobra.Command, args []string) error {
			if !dryRun {
				return identity.RemoveKey(args[0], args[1])
			}
			if err := identity.CheckRemoveKey(args[0], args[1]); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "would remove %s from %s\n", args[1], args[0])
			return nil
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only say whether it could be done")
	return c
}
