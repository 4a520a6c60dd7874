"""What makes releases and archives of this package, and looks at them."""
