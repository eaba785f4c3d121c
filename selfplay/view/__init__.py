"""The page that shows run folders in a browser: a local server that reads them, and never imports what lies in them."""
