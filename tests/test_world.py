"""The world: exact, reproducible, and different where it says it is different."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from identisim.errors import InputError
from identisim.records import read_views
from identisim.world import kernels, mesh, optics, textures
from identisim.world.alter import CHANGES, alter
from identisim.world.families import FAMILIES, sample_identity
from identisim.world.identity import Identity, Material, Part
from identisim.world.labels import SIZE, STYLES, draw
from identisim.world.places import Backdrop
from identisim.world.poses import POSTURES, posed
from identisim.world.props import PROPS
from identisim.world.render import render
from identisim.world.sample import write_world
from identisim.world.shards import MEMBERS, VIEWS, shard
from identisim.world.view import Camera, sample_view

GREY = Material("plain", ((0.5, 0.5, 0.5),) * 3, gloss=0.0)


def test_same_numbers_same_bytes_in_another_process() -> None:
    code = (
        "import hashlib; from identisim.world.families import sample_identity;"
        "from identisim.world.view import sample_view;"
        "from identisim.world.render import render; r = render(sample_identity(3, 4), sample_view(3, 4, 1), 48);"
        "print(hashlib.sha256(r.image.tobytes() + r.mask.tobytes()).hexdigest())"
    )
    digests = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    here = render(sample_identity(3, 4), sample_view(3, 4, 1), 48)
    assert digests == {hashlib.sha256(here.image.tobytes() + here.mask.tobytes()).hexdigest() + "\n"}


def test_order_of_drawing_does_not_matter() -> None:
    first = render(sample_identity(1, 0), sample_view(1, 0, 0), 32)
    render(sample_identity(9, 7), sample_view(9, 7, 3), 32)
    assert np.array_equal(render(sample_identity(1, 0), sample_view(1, 0, 0), 32).image, first.image)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_seen_and_masked(family: str) -> None:
    identity = FAMILIES[family](np.random.default_rng(0))
    view = dataclasses.replace(sample_view(0, 0, 0), neighbours=())
    drawn = render(identity, view, 64)
    assert drawn.image.shape == (64, 64, 3) and drawn.image.dtype == np.uint8
    assert set(np.unique(drawn.mask)) == {0, 255}
    assert 0.02 < (drawn.mask > 0).mean() < 0.98
    assert drawn.image.std() > 3
    assert json.loads(json.dumps(identity.parameters))["family"] == identity.family


def test_identities_differ_and_are_drawn_from_all_families() -> None:
    run = len(FAMILIES)
    keys = [sample_identity(0, number) for number in range(7, 7 + run)]
    assert len({identity.key for identity in keys}) == run
    assert {identity.family for identity in keys} == set(FAMILIES)


@pytest.mark.parametrize("change", CHANGES)
def test_a_near_identity_differs_in_one_way(change: str) -> None:
    changed = 0
    for number in range(len(FAMILIES)):
        old = sample_identity(2, number)
        try:
            new = alter(old, 0.5, number, change)
        except ValueError:
            assert change == "print"  # only an object without print has nothing to change
            continue
        changed += 1
        assert new.key != old.key and new.family == old.family
        fields = {
            "parts": old.parts != new.parts,
            "materials": old.materials != new.materials,
            "labels": old.labels != new.labels,
        }
        touched = {name for name, differs in fields.items() if differs}
        allowed = {
            "colour": {"materials", "labels"},
            "pattern": {"materials"},
            "print": {"labels"},
            "shape": {"parts"},
            "part": {"parts", "materials"},
        }
        assert touched and touched <= allowed[change]
        if change == "colour":
            assert len(touched) == 1
    assert changed >= (len(FAMILIES) // 2 if change == "print" else len(FAMILIES))


def test_a_changed_print_or_colour_is_seen_on_the_label() -> None:
    for number in range(2 * len(FAMILIES)):
        old = sample_identity(6, number)
        new = alter(old, 0.3, number, "colour")
        labels = [(a, b) for a, b in zip(old.labels, new.labels, strict=True) if a != b]
        assert not labels or any((draw(a) != draw(b)).any() for a, b in labels)


def test_alter_is_reproducible_and_checks_its_strength() -> None:
    identity = sample_identity(0, 3)
    assert alter(identity, 0.4, 8) == alter(identity, 0.4, 8) != alter(identity, 0.4, 9)
    for strength in (0.0, -1.0, 1.5):
        with pytest.raises(ValueError, match="strength must lie in"):
            alter(identity, strength, 0)


@pytest.mark.parametrize("style", [*STYLES, "dial", "plain"])
def test_labels_are_pictures_with_ink(style: str) -> None:
    label = next(label for label in sample_identity(0, 0).labels)
    drawn = draw(dataclasses.replace(label, style=style, opaque=False))
    assert drawn.shape == (SIZE, SIZE, 4) and drawn.dtype == np.uint8
    assert (drawn[..., 3].max() > 0) == (style != "plain")
    assert draw(dataclasses.replace(label, style=style, opaque=True))[..., 3].min() == 255


def _ball(number: int) -> tuple[Identity, Camera]:
    identity = Identity("ball", (Part("ellipsoid", (1.0, 1.0), (1.0, 1.0, 1.0), (0.0, 1.0, 0.0)),), (GREY,))
    return identity, Camera(float(40 * number), 0.0, 0.0, 40.0, 0.6, (0.0, 0.0), 1.0)


@pytest.mark.parametrize("number", range(3))
def test_a_ball_covers_the_disc_that_geometry_says(number: int) -> None:
    identity, camera = _ball(number)
    view = dataclasses.replace(sample_view(0, 0, 0), camera=camera, neighbours=())
    drawn = render(identity, view, 128)
    tangent = np.tan(np.radians(20.0))
    distance = 1 / (camera.fill * tangent) + 0.15
    radius = np.tan(np.arcsin(1 / distance)) / tangent * 64
    rows, columns = np.nonzero(drawn.mask)
    # the ball is a polyhedron of 12 × 20 facets, a little smaller than the sphere
    assert len(rows) == pytest.approx(np.pi * radius**2, rel=0.06)
    assert (rows.mean(), columns.mean()) == pytest.approx((63.5, 63.5), abs=0.7)


def test_rasterise_keeps_the_nearest_and_weights_sum_to_the_point() -> None:
    # in general position, so that no pixel centre lies on an edge
    corners = np.column_stack([np.random.default_rng(0).uniform(-2, 18, (6, 2)), [0.5] * 3 + [0.9] * 3])
    faces = np.array([[0, 1, 2], [3, 4, 5]], np.int32)
    depth, hit, bary = np.zeros((16, 16)), np.full((16, 16), -1, np.int32), np.zeros((16, 16, 2))
    kernels.rasterise(corners, faces, 16, depth, hit, bary, np.zeros(2, np.bool_))
    for y in range(16):
        for x in range(16):
            point = np.array([x + 0.5, y + 0.5])
            inside = []
            for f, (a, b, c) in enumerate(faces):
                matrix = np.column_stack([corners[a, :2] - corners[c, :2], corners[b, :2] - corners[c, :2]])
                u, v = np.linalg.solve(matrix, point - corners[c, :2])
                if min(u, v, 1 - u - v) > 1e-9:
                    inside.append((corners[a, 2], f))
            expected = max(inside)[1] if inside else -1
            assert hit[y, x] == expected
            if expected >= 0:
                a, b, c = faces[expected]
                wa, wb = bary[y, x]
                there = wa * corners[a] + wb * corners[b] + (1 - wa - wb) * corners[c]
                assert there[:2] == pytest.approx(point)


@settings(max_examples=50, deadline=None)
@given(*(st.floats(-30, 30) for _ in range(3)), st.integers(0, 60000))
def test_noise_stays_in_range_and_cells_equal_brute_force(x: float, y: float, z: float, seed: int) -> None:
    assert 0 <= textures.noise(x, y, z, seed) <= 1
    assert 0 <= textures.clouds(x, y, z, seed) <= 1
    near, far, name = textures.cells(x, y, z, seed)
    assert 0 <= near <= far and 0 <= name <= 1
    distances = []
    for p in range(int(np.floor(x)) - 1, int(np.floor(x)) + 2):
        for q in range(int(np.floor(y)) - 1, int(np.floor(y)) + 2):
            for r in range(int(np.floor(z)) - 1, int(np.floor(z)) + 2):
                value = textures.LATTICE[
                    (((p + seed) & 31) << 10) | (((q + (seed >> 5)) & 31) << 5) | ((r + (seed >> 10)) & 31)
                ]
                point = np.array([p + value, q + value * 253 % 1, r + value * 4093 % 1])
                distances.append(float(np.linalg.norm(point - [x, y, z])))
    assert (near, far) == pytest.approx(tuple(sorted(distances)[:2]), abs=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_meshes_are_finite_with_unit_normals(family: str) -> None:
    identity = FAMILIES[family](np.random.default_rng(5))
    built = mesh.build(identity)
    assert np.isfinite(built.vertices).all() and len(built.faces) == len(built.materials) == len(built.labels)
    assert np.linalg.norm(built.normals, axis=1) == pytest.approx(1, abs=1e-4)
    assert built.faces.min() == 0 and built.faces.max() < len(built.vertices)
    assert built.labels.max() < len(identity.labels) and built.materials.max() < len(identity.materials)


def _faces(clear: bool) -> np.ndarray:
    corners = np.array([[-9.0, -9.0, 0.5], [40.0, -9.0, 0.5], [-9.0, 40.0, 0.5]])
    depth, hit, bary = np.zeros((8, 8)), np.full((8, 8), -1, np.int32), np.zeros((8, 8, 2))
    kernels.rasterise(corners, np.array([[0, 1, 2]], np.int32), 8, depth, hit, bary, np.array([clear]))
    return hit >= 0


def test_clear_triangles_fill_half_of_every_block() -> None:
    assert _faces(False).all()
    blocks = _faces(True).reshape(4, 2, 4, 2).sum(axis=(1, 3))
    assert (blocks == 2).all()


def test_hair_grows_outwards_no_longer_than_it_is() -> None:
    size, pixels = 64, 40.0
    y, x = np.mgrid[:size, :size]
    inside = np.hypot(x - 32, y - 32) < 15
    hit = np.where(inside, 0, -1).astype(np.int32)
    depth, bary = np.where(inside, 1.0, 0.0), np.zeros((size, size, 2))
    hits, depths, barys = np.empty_like(hit), np.empty_like(depth), np.empty_like(bary)
    optics.ruffle(hit, bary, depth, np.array([0.1]), pixels, hits, barys, depths)
    distance = np.hypot(x - 32, y - 32)
    grown = (hits >= 0) & ~inside
    assert grown.sum() > 10 and distance[grown].max() <= 15 + 0.1 * pixels + 1
    assert (hits[inside] >= 0).all() and (depths[hits >= 0] == 1.0).all()
    optics.ruffle(hit, bary, depth, np.array([0.0]), pixels, hits, barys, depths)
    assert np.array_equal(hits, hit)


@pytest.mark.parametrize("radius", [1.0, 3.0, 6.5])
def test_defocus_keeps_flat_light_and_what_is_sharp(radius: float) -> None:
    rng = np.random.default_rng(0)
    weight = np.zeros((48, 48))
    weight[:, 20:] = 1.0
    picture, out = rng.uniform(0, 3, (48, 48, 3)), np.empty((48, 48, 3))
    optics.defocus(picture, weight, radius, out)
    assert np.array_equal(out[:, :20], picture[:, :20])
    assert out[:, 20:].std() < 0.75 * picture[:, 20:].std()
    flat = np.where(weight[..., None] > 0, 0.7, 2.5) * np.ones(3)
    optics.defocus(flat, weight, radius, out)
    assert out[:, 20:] == pytest.approx(0.7)  # the sharp part does not bleed


def test_blur_of_the_distance_leaves_object_and_mask_alone() -> None:
    view = dataclasses.replace(sample_view(0, 4, 0), neighbours=())
    film = dataclasses.replace(view.film, blur=0.0, noise=0.0, jpeg=0)
    busy = Material("clutter", ((0.5, 0.5, 0.5),) * 3, frequency=4.0)
    sharp = Backdrop(False, True, 3.0, GREY, busy)
    identity = sample_identity(0, 0)
    first, second = (
        render(
            identity, dataclasses.replace(view, film=film, backdrop=dataclasses.replace(sharp, blur=b)), 64
        )
        for b in (0.0, 0.05)
    )
    assert np.array_equal(first.mask, second.mask)
    inner = np.asarray(Image.fromarray(first.mask).resize((64, 64))) > 0
    inner[1:-1, 1:-1] &= inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
    assert inner.sum() > 50 and np.array_equal(first.image[inner], second.image[inner])
    away = first.mask == 0
    assert second.image[away].std() < first.image[away].std()


@pytest.mark.parametrize("family", POSTURES)
def test_postures_keep_the_feet_on_the_ground(family: str) -> None:
    identity = FAMILIES[family](np.random.default_rng(3))
    built = mesh.build(identity)
    joints = tuple((part.joint, part.position) for part in identity.parts)
    heights = set()
    for pose in range(12):
        vertices, normals = posed(built, family, joints, pose)
        assert vertices[:, 1].min() == pytest.approx(float(built.vertices[:, 1].min()), abs=1e-5)
        assert np.linalg.norm(normals, axis=1) == pytest.approx(1, abs=1e-4)
        heights.add(round(float(np.ptp(vertices[:, 1])), 2))
    assert max(heights) > 1.2 * min(heights)  # it stands, sits and lies


def test_gobos_shade_a_part_of_the_beam() -> None:
    places = np.random.default_rng(0).uniform(-0.4, 0.4, (400, 2))
    light = np.zeros(22)
    for kind in (kernels.DAPPLED, kernels.BARS, kernels.EDGE):
        light[kernels.GOBO : kernels.GOBO + 3] = kind, 9.0, 3
        through = np.array([kernels.gobo(light, u, v) for u, v in places])
        assert 0 <= through.min() < 0.2 and 0.8 < through.max() <= 1


@pytest.mark.parametrize("prop", sorted({prop.__name__ for prop in PROPS}))
def test_props_are_meshes(prop: str) -> None:
    draws = {function.__name__: function for function in PROPS}
    built = mesh.build(draws[prop](np.random.default_rng(1)))
    assert np.isfinite(built.vertices).all() and len(built.faces) > 100


def test_tubes_and_lofts_have_the_size_they_are_given() -> None:
    (points, _), *_ = mesh.tube(0.2, 0.1, 1.0, 0, 0, 0, 0, 1, 0, 0, 2, 0)
    radii = np.hypot(points[..., 0], points[..., 2])
    assert radii[1] == pytest.approx(0.2) and radii[-2] == pytest.approx(0.1)
    assert points[..., 1].min() == pytest.approx(0) and points[..., 1].max() == pytest.approx(2)
    (points, _), *_ = mesh.loft(1.0, -1, 0, 0.3, 0.5, 0, 0, 0.3, 0.5, 1, 0, 0.3, 0.5)
    assert np.abs(points).max(axis=(0, 1)) == pytest.approx((0.3, 0.5, 1.0), abs=0.01)


def test_shared_views_differ_only_where_the_object_is() -> None:
    pixels = shard(1, [0], size=48)
    assert pixels.shape == (1, MEMBERS, VIEWS, 48, 48, 4)
    original, near = pixels[0, 0, -1].astype(int), pixels[0, 1, -1].astype(int)
    away = (original[..., 3] == 0) & (near[..., 3] == 0)
    change = np.abs(original[..., :3] - near[..., :3]).mean(-1)
    assert np.median(change[away]) < 2
    assert (
        np.abs(original[..., :3] - pixels[0, 1, 0, ..., :3]).mean() > 10
    )  # its own first view is another picture


def test_write_world_records_everything_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    clean, killed = tmp_path / "clean", tmp_path / "killed"
    options = {"identities": 3, "views": 2, "seed": 4, "near": 1, "size": 32, "progress": False}
    table = write_world(clean, **options)  # type: ignore[arg-type]
    views = read_views(table)
    assert len(views) == 12 and len({view.identity for view in views}) == 6
    assert all((clean / view.path).is_file() and (clean / str(view.mask)).is_file() for view in views)
    assert {"key", "identity", "view"} == set(json.loads(views[0].parameters))
    write_world(killed, **options)  # type: ignore[arg-type]
    lost = [view.path for view in read_views(killed / "views.parquet")][5:]
    for path in lost:
        (killed / path).unlink()
    (killed / "views.parquet").unlink()
    write_world(killed, **options)  # type: ignore[arg-type]
    assert [(killed / v.path).read_bytes() for v in views] == [(clean / v.path).read_bytes() for v in views]
    assert read_views(killed / "views.parquet") == views


def test_processes_draw_the_same_pictures(tmp_path: Path) -> None:
    for processes in (1, 2):
        write_world(
            tmp_path / str(processes),
            identities=2,
            views=1,
            seed=1,
            size=24,
            processes=processes,
            progress=False,
        )
    for path in sorted((tmp_path / "1").rglob("*.png")):
        twin = tmp_path / "2" / path.relative_to(tmp_path / "1")
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(twin)))


def test_bad_numbers_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="identities must be at least 1; got 0"):
        write_world(tmp_path / "w", identities=0)
    with pytest.raises(InputError, match="at most 2048"):
        write_world(tmp_path / "w", size=4096)
    write_world(tmp_path / "w", identities=1, views=1, size=16, progress=False)
    with pytest.raises(InputError, match="made with other numbers"):
        write_world(tmp_path / "w", identities=2, views=1, size=16, progress=False)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file; expected a folder"):
        write_world(tmp_path / "file")
