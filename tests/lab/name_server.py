"""A name server with one answer, for a test: `name_server.py PORT` says 192.0.2.7 to every question, UDP and TCP."""

import socket
import socketserver
import struct
import sys
import threading


def answer(question: bytes) -> bytes:
    """RFC 1035: the question echoed with one A record that points back at its name."""
    end = question.index(b"\0", 12) + 5
    header = question[:2] + struct.pack("!HHHHH", 0x8180, 1, 1, 0, 0)
    record = struct.pack("!HHHIH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton("192.0.2.7")
    return header + question[12:end] + record


class Datagram(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, sock = self.request
        sock.sendto(answer(data), self.client_address)


class Stream(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        (length,) = struct.unpack("!H", self.rfile.read(2))
        reply = answer(self.rfile.read(length))
        self.wfile.write(struct.pack("!H", len(reply)) + reply)


if __name__ == "__main__":
    port = int(sys.argv[1])
    stream = socketserver.ThreadingTCPServer(("", port), Stream)
    threading.Thread(target=stream.serve_forever, daemon=True).start()
    socketserver.ThreadingUDPServer(("", port), Datagram).serve_forever()
