"""draw: pictures from arrays and tables, as SVG, HTML and matplotlib figures; it knows no nouns."""
