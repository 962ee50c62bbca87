"""Tables, figures and the demo's report: numbers made readable."""
