"""A camera on loopback: serves one H.264 file over RTSP, in real time, from its beginning.

It runs under Debian's own Python (gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-good and -bad):

    /usr/bin/python3 bench/rtsp_server.py FILE PORT

The address is rtsp://127.0.0.1:PORT/stream.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402


def main(path: str, port: str) -> None:
    """Serve until killed."""
    Gst.init(None)
    server = GstRtspServer.RTSPServer(service=port, address="127.0.0.1")
    factory = GstRtspServer.RTSPMediaFactory()
    source = f'filesrc location="{path}" ! qtdemux ! h264parse config-interval=-1'
    factory.set_launch(f"( {source} ! rtph264pay name=pay0 pt=96 )")
    server.get_mount_points().add_factory("/stream", factory)
    server.attach(None)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main(*sys.argv[1:])
