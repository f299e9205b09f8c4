"""The bin, the hand and the objects as MuJoCo XML, made of primitives without assets.

Lengths are in metres. The bin is centred at the origin, its floor at height 0; x points to the
right of the frame, y away from the camera. Colours are each geom's `rgba`, which both kinds of
renderers read.
"""

import colorsys
import math
from collections.abc import Mapping
from xml.etree import ElementTree as ET

import numpy as np

BIN = (0.26, 0.20)  # half of its length and width
WALL_HEIGHT, WALL_THICKNESS = 0.05, 0.008  # half of each
OBJECT_REACH = (0.20, 0.13)  # maximum initial distance of an object from the centre
LEAST_DISTANCE = 0.085  # between objects initially
HAND_LOW, HAND_HIGH = np.array([-0.21, -0.15, 0.012]), np.array([0.21, 0.15, 0.16])
FINGER_TRAVEL = 0.026
TIMESTEP_S = 0.008
# BAIR's camera aux1, as estimated from its images.
CAMERA = {"pos": "0 -0.50 0.60", "xyaxes": "1 0 0 0 0.735 0.678", "fovy": "44"}
CAMERA_NAME = "aux1"
TO_LAMP = (-0.18, -0.26, 0.95)  # direction of a distant lamp
ARM_BASE = (0.0, 0.50, 0.30)
ARM_LENGTHS = (0.37, 0.37)  # of the upper arm and the forearm, which don't collide
WRIST_HEIGHT = 0.15  # above the finger tips, where the forearm ends

BOARDS = ((0.72, 0.56, 0.38), (0.68, 0.52, 0.35), (0.75, 0.59, 0.41), (0.70, 0.54, 0.36))
GROUND = 1  # the group of geoms below everything, which cast no shadow
LYING = (0.7071068, 0, 0.7071068, 0)  # along x; an upright capsule would topple eventually
SHAPES = ("box", "cylinder", "ellipsoid", "capsule", "sphere")


def random_scene(rng: np.random.Generator, *, num_objects: int, offscreen_size: int) -> str:
    """The XML of a scene with objects of random shapes, sizes, colours and positions.

    Bodies object0, object1, ... have free joints of the same names.

    Args:
        offscreen_size: side in pixels of the image that OpenGL renders.
    """
    root = ET.Element("mujoco", model="robot bin")
    ET.SubElement(root, "option", timestep=str(TIMESTEP_S), integrator="implicitfast")
    visual = ET.SubElement(root, "visual")
    ET.SubElement(visual, "global", offwidth=str(offscreen_size), offheight=str(offscreen_size))
    # A large shadow map and smooth curves are slow and invisible in 64 pixels.
    quality = {"shadowsize": 512, "offsamples": 0, "numslices": 12, "numstacks": 8, "numquads": 1}
    ET.SubElement(visual, "quality", _text(quality))
    ET.SubElement(
        visual, "headlight", ambient="0.35 0.35 0.35", diffuse="0.25 0.25 0.25", specular="0 0 0"
    )
    # The range of OpenGL's shadows; without this it is the table's size.
    ET.SubElement(visual, "map", shadowclip="1.2")
    ET.SubElement(root, "statistic", center="0 0 0", extent="0.6")
    world = ET.SubElement(root, "worldbody")
    ET.SubElement(world, "camera", CAMERA, name=CAMERA_NAME)
    ET.SubElement(
        world,
        "light",
        _text({"pos": TO_LAMP, "dir": [-x for x in TO_LAMP]}),
        directional="true",
        diffuse="0.55 0.55 0.55",
        specular="0 0 0",
    )
    _add_bin(world)
    _add_hand(world)
    _add_arm(world)
    for i, (x, y) in enumerate(_places(rng, num_objects)):
        _add_object(world, f"object{i}", rng, x, y)
    actuators = ET.SubElement(root, "actuator")
    for joint, kp, kv in (("x", 900, 60), ("y", 900, 60), ("z", 900, 60)):
        ET.SubElement(actuators, "position", _text({"joint": joint, "kp": kp, "kv": kv}))
    for joint in ("left", "right"):
        ET.SubElement(actuators, "position", _text({"joint": joint, "kp": 120, "kv": 6}))
    return ET.tostring(root, encoding="unicode")


def elbow(wrist: np.ndarray) -> np.ndarray:
    """The elbow of a two-link arm from its base to the wrist, bent upwards."""
    base, (upper, lower) = np.asarray(ARM_BASE), ARM_LENGTHS
    reach = wrist - base
    distance = min(float(np.linalg.norm(reach)), 0.999 * (upper + lower))
    along = reach / np.linalg.norm(reach)
    offset = (upper**2 - lower**2 + distance**2) / (2 * distance)
    up = np.array([0.0, 0.0, 1.0]) - along[2] * along
    up /= np.linalg.norm(up)
    return base + offset * along + math.sqrt(max(upper**2 - offset**2, 0.0)) * up


def _add_bin(world: ET.Element) -> None:
    length, width = BIN
    board = length / len(BOARDS)
    for i, colour in enumerate(BOARDS):
        x = -length + (2 * i + 1) * board
        size = (board, width, 0.01)
        _geom(world, "box", size, (*colour, 1), pos=(x, 0, -0.01), group=GROUND)
    table = (0.33, 0.34, 0.36, 1)
    _geom(world, "box", (2.0, 2.0, 0.01), table, pos=(0, 0, -0.032), group=GROUND)
    thick, height = WALL_THICKNESS, WALL_HEIGHT
    side, white = (0.60, 0.45, 0.30, 1), (0.92, 0.92, 0.90, 1)
    for sign in (-1, 1):
        x = sign * (length + thick)
        _geom(world, "box", (thick, width, height), side, pos=(x, 0, height))
    for sign, colour in ((-1, white), (1, side)):
        y = sign * (width + thick)
        size = (length + 2 * thick, thick, height)
        _geom(world, "box", size, colour, pos=(0, y, height))


def _add_hand(world: ET.Element) -> None:
    hand = ET.SubElement(world, "body", name="hand", gravcomp="1")
    for axis, name in enumerate("xyz"):
        direction = [int(axis == i) for i in range(3)]
        limits = (HAND_LOW[axis], HAND_HIGH[axis])
        joint = {"name": name, "type": "slide", "axis": direction, "range": limits, "armature": 0.5}
        ET.SubElement(hand, "joint", _text(joint))
    dark, metal = (0.16, 0.16, 0.18, 1), (0.45, 0.46, 0.50, 1)
    _geom(hand, "box", (0.045, 0.016, 0.012), dark, pos=(0, 0, 0.085))
    _geom(hand, "cylinder", (0.016, 0.03), metal, pos=(0, 0, 0.12))
    for name, sign in (("left", -1), ("right", 1)):
        finger = ET.SubElement(
            hand, "body", _text({"name": name, "pos": (sign * 0.036, 0, 0.037), "gravcomp": 1})
        )
        joint = {"name": name, "type": "slide", "axis": (-sign, 0, 0)}
        ET.SubElement(
            finger, "joint", _text({**joint, "range": (0, FINGER_TRAVEL), "armature": 0.05})
        )
        _geom(finger, "box", (0.007, 0.013, 0.037), dark)


def _add_arm(world: ET.Element) -> None:
    """Add the arm, which is only visual: `PushingEnv` moves its links with the wrist."""
    red, grey = (0.55, 0.10, 0.10, 1), (0.22, 0.22, 0.24, 1)
    for name, length, radius, colour in (
        ("upper arm", ARM_LENGTHS[0], 0.032, red),
        ("forearm", ARM_LENGTHS[1], 0.019, grey),
    ):
        link = ET.SubElement(world, "body", name=name, mocap="true")
        _geom(link, "capsule", (radius, length / 2), colour, contype=0, conaffinity=0)


def _places(rng: np.random.Generator, count: int) -> np.ndarray:
    """Positions in the bin (count, 2), at least `LEAST_DISTANCE` apart."""
    places: list[np.ndarray] = []
    while len(places) < count:
        place = rng.uniform(-1, 1, 2) * OBJECT_REACH
        if all(np.hypot(*(place - other)) >= LEAST_DISTANCE for other in places):
            places.append(place)
    return np.stack(places)


def _add_object(world: ET.Element, name: str, rng: np.random.Generator, x: float, y: float) -> None:
    angle = rng.uniform(0, 2 * math.pi)
    turn = (math.cos(angle / 2), 0, 0, math.sin(angle / 2))
    body = ET.SubElement(world, "body", _text({"name": name, "pos": (x, y, 0.04), "quat": turn}))
    ET.SubElement(body, "freejoint", name=name)
    offset = rng.uniform(0.018, 0.026)
    for part in range(1 + int(rng.random() < 0.5)):
        shape = SHAPES[rng.integers(len(SHAPES))]
        size = rng.uniform(0.016, 0.026) * rng.uniform(0.75, 1.2, 3)
        num_sizes = {"sphere": 1, "cylinder": 2, "capsule": 2}.get(shape, 3)
        colour = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.55, 0.95), rng.uniform(0.5, 0.95))
        _geom(
            body,
            shape,
            size[:num_sizes] * (0.7 if shape == "capsule" else 1.0),
            (*colour, 1),
            pos=(part * offset, 0, 0),
            quat=LYING if shape == "capsule" else (1, 0, 0, 0),
            density=500,
            # Without the last two, round objects would roll forever.
            condim=6,
            friction=(0.6, 0.01, 0.01),
        )


def _geom(parent: ET.Element, shape: str, size: object, rgba: object, **more: object) -> None:
    ET.SubElement(parent, "geom", _text({"type": shape, "size": size, "rgba": rgba, **more}))


def _text(attributes: Mapping[str, object]) -> dict[str, str]:
    """Convert numbers and arrays to XML attributes."""
    return {
        name: value
        if isinstance(value, str)
        else " ".join(f"{number:.9g}" for number in np.ravel(np.asarray(value, float)))
        for name, value in attributes.items()
    }
