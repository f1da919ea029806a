"""A captive portal: whatever is asked, go and log in. Usage: portal.py PORT"""

import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Portal(BaseHTTPRequestHandler):
    """Redirects."""

    def do_GET(self) -> None:
        """See the class."""
        self.send_response(302)
        self.send_header("Location", "http://login.hotel.example/?from=upmt")
        self.end_headers()
        self.wfile.write(b"<html>" + b"please pay " * 10000)


if __name__ == "__main__":
    HTTPServer(("", int(sys.argv[1])), Portal).serve_forever()
