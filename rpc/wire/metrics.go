package wire

// Metrics are the agent's figures.
type Metrics struct {
	Text string `json:"text" doc:"in Prometheus' text format"`
}
