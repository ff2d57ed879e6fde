package cli

import (
	"encoding/json"
	"fmt"
	"io"
)

// WriteJSON writes a result for programs: what --json prints.
func WriteJSON(w io.Writer, result any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(result); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}
