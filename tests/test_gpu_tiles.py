"""The tiles of the kernel for GPUs: plain integers."""

import itertools
import math
import subprocess
import sys

from jdeconv._plan import gpu_tiles
from jdeconv._plan.gpu_tiles import Product, tile_for


def products():
    counts = (1, 3, 21, 1024)
    for rows, phases, outputs, taps, inputs in itertools.product((1, 40, 10**6), (1, 4, 9, 256), *[counts] * 3):
        for itemsize, fused in itertools.product((2, 4), (False, True)):
            yield Product(rows, phases, outputs, taps, inputs, itemsize, fused)


def test_tiles_fit():
    """Of powers of two that tensor cores take, within registers and shared memory, not larger than there is need."""
    for product in products():
        tile = tile_for(product)
        sides = tile.rows, tile.columns, tile.depth
        assert all(side >= gpu_tiles.SHORTEST_SIDE and side & (side - 1) == 0 for side in sides), (product, tile)
        assert max(tile.rows, tile.columns) <= gpu_tiles.LONGEST_SIDE
        assert tile.rows * tile.columns <= 64 * 32 * tile.warps, (product, tile)  # sums of each thread
        assert 2 <= tile.stages <= gpu_tiles.MOST_STAGES
        assert tile.shared(product.itemsize) <= gpu_tiles.SHARED_MEMORY, (product, tile)
        assert tile.phases == 1 or product.fused
        # A side is more than twice what there is only where that is less than tensor cores take.
        assert tile.rows < max(gpu_tiles.SHORTEST_SIDE + 1, 2 * product.rows)
        assert tile.columns < max(gpu_tiles.SHORTEST_SIDE + 1, 4 * product.phases * product.outputs)
        assert tile.depth < max(gpu_tiles.SHORTEST_SIDE + 1, 4 * product.taps * product.inputs)


def test_large_products_have_large_tiles_and_small_ones_keep_processors_busy():
    large = Product(10**6, 4, 512, 4, 512, 2, fused=True)
    assert (tile_for(large).rows, tile_for(large).columns) == (gpu_tiles.LONGEST_SIDE, gpu_tiles.LONGEST_SIDE)
    small = Product(512, 4, 256, 4, 512, 2, fused=True)
    assert math.prod(tile_for(small).grid(small)) >= gpu_tiles.PROCESSORS


def test_they_need_no_jax():
    code = (
        "import sys, types, importlib.util as u, pathlib\n"
        "root = pathlib.Path(u.find_spec('jdeconv').submodule_search_locations[0])\n"
        "package = types.ModuleType('jdeconv'); package.__path__ = [str(root)]; sys.modules['jdeconv'] = package\n"
        "import jdeconv._plan.gpu_tiles\n"
        "assert 'jax' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
