"""A browser without a screen: it speaks viser's protocol over a real connection, and keeps what it gets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import viser
import zstandard
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from viewer.frame import Pose

AT = Pose(np.array([0.0, 0.0, -4.0]), np.array([1.0, 0.0, 0.0, 0.0]), 0.9, 1.5)
PATIENCE_S = 20.0  # far more than anything here takes, for machines that are busy with something else


class FakeBrowser:
    """Connects and says where its camera is."""

    def __init__(self, port: int, pose: Pose = AT) -> None:
        protocol = Subprotocol(f"viser-v{viser.__version__}")
        self._connection = connect(f"ws://127.0.0.1:{port}", subprotocols=[protocol], max_size=None)
        self.messages: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        self.move(pose)

    def move(self, pose: Pose, width: int = 300, height: int = 200) -> None:
        """Moves the camera."""
        self._send(
            type="ViewerCameraMessage",
            wxyz=pose.wxyz.tolist(),
            position=pose.position.tolist(),
            fov=pose.fov,
            near=0.01,
            far=1000.0,
            image_height=height,
            image_width=width,
            look_at=(pose.position + pose.axes[:, 2]).tolist(),
            up_direction=[0.0, -1.0, 0.0],
        )

    def set(self, label: str, value: Any) -> None:
        """Gives a control a value; a button is clicked by True."""
        control = self.wait(lambda: self.control(label))
        self._send(type="GuiUpdateMessage", uuid=control["uuid"], updates={"value": value})

    def control(self, label: str) -> dict[str, Any] | None:
        """The control of that label (buttons: as it was at first), with its first properties."""
        for message in self.messages:
            if message["type"].startswith("Gui") and message.get("props", {}).get("label") == label:
                return message
        return None

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The messages of a type, in the order in which they came."""
        return [message for message in list(self.messages) if message["type"] == kind]

    def splats(self) -> int:
        """How many splats it draws now, by the last message about them; 0 before any."""
        count = 0
        for message in list(self.messages):
            if message["type"] == "GaussianSplatsMessage":
                count = len(message["props"]["buffer"]) // 32
            elif message["type"] == "SceneNodeUpdateMessage" and "buffer" in message["updates"]:
                count = len(message["updates"]["buffer"]) // 32
            elif message["type"] == "RemoveSceneNodeMessage" and message["name"] == "/splats":
                count = 0
        return count

    def status(self) -> str:
        """The status, as markdown."""
        updates = [message["updates"] for message in self.of("GuiUpdateMessage")]
        return ([""] + [update["_markdown"] for update in updates if "_markdown" in update])[-1]

    def wait(self, what: Callable[[], Any]) -> Any:
        """Waits until something is so."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            if found := what():
                return found
            time.sleep(0.02)
        came = sorted({message["type"] for message in self.messages})
        raise AssertionError(f"waited {PATIENCE_S} s in vain; what came: {came}")

    def babble(self) -> None:
        """Sends what is no message."""
        self._connection.send(b"\x00garbage")

    def ask_to_share(self) -> None:
        """Wishes for a public address, as a button of viser's own does."""
        self._send(type="ShareUrlRequest")

    def close(self) -> None:
        """Says goodbye."""
        self._connection.close()

    def die(self) -> None:
        """Goes without a word."""
        self._connection.socket.shutdown(2)
        self._connection.socket.close()

    def _send(self, **message: Any) -> None:
        self._connection.send(msgspec.msgpack.encode(message))

    def _listen(self) -> None:
        try:
            for raw in self._connection:
                assert isinstance(raw, bytes)
                self.messages.extend(_decode(raw))
        except Exception:  # gone, by whichever end
            return


def _decode(raw: bytes) -> list[dict[str, Any]]:
    plain, packed = (int.from_bytes(raw[i : i + 8], "little") for i in (0, 8))
    content = msgspec.msgpack.decode(
        zstandard.ZstdDecompressor().decompress(raw[16 : 16 + packed], max_output_size=plain)
    )
    at, buffers = 16 + packed, []
    for length in content["binaryBufferLengths"]:
        at += -at % 8
        buffers.append(raw[at : at + length])
        at += length

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            if "__binary_index" in value:
                return buffers[value["__binary_index"]]
            return {key: fill(part) for key, part in value.items()}
        return [fill(part) for part in value] if isinstance(value, list) else value

    return [fill(message) for message in content["messages"]]
