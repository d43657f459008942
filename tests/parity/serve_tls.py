"""A server over https, in front of one over http, with a certificate of its own making.

    python3 tests/parity/serve_tls.py http://127.0.0.1:8312 8443 FOLDER

Writes FOLDER/ca.pem, which `SSL_CERT_FILE` then names for whoever asks https://localhost:8443. Needs openssl.
"""

import pathlib
import socket
import ssl
import subprocess
import sys
import threading
import urllib.parse


def certificates(folder):
    """An authority and a certificate for localhost, good for a day."""
    openssl = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    run = lambda *more: subprocess.run([*openssl, *more], cwd=folder, check=True, capture_output=True)
    run("-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=parity", "-addext", "basicConstraints=critical,CA:TRUE")
    run("-keyout", "own.key", "-out", "own.pem", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "-addext", "basicConstraints=critical,CA:FALSE", "-CA", "ca.pem", "-CAkey", "ca.key")  # fmt: skip


def copy(source, target):
    """Until one side has no more to say."""
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def main():
    server, port, folder = urllib.parse.urlsplit(sys.argv[1]), int(sys.argv[2]), pathlib.Path(sys.argv[3])
    certificates(folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "own.pem", folder / "own.key")
    listener = socket.create_server(("127.0.0.1", port))
    print(f"https://localhost:{port}", flush=True)
    while True:
        plain, _ = listener.accept()

        def serve(plain=plain):
            try:
                client = context.wrap_socket(plain, server_side=True)
            except OSError as error:
                print(error, flush=True)
                return
            behind = socket.create_connection((server.hostname, server.port))
            threading.Thread(target=copy, args=(client, behind), daemon=True).start()
            copy(behind, client)
            client.close()

        threading.Thread(target=serve, daemon=True).start()


main()
