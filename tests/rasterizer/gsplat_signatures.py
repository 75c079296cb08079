"""The parameters of `gsplat.rasterization`, names only: of the version in use, and of the one to come.

`NEXT` is the development branch after 1.5.3, which has dropped `channel_chunk` and added others. What
training passes must be in both.
"""

from __future__ import annotations

V1_5_3 = (
    *("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks", "width", "height"),
    *("near_plane", "far_plane", "radius_clip", "eps2d", "sh_degree", "packed", "tile_size", "backgrounds"),
    *("render_mode", "sparse_grad", "absgrad", "rasterize_mode", "channel_chunk", "distributed"),
    *("camera_model", "segmented", "covars", "with_ut", "with_eval3d", "radial_coeffs", "tangential_coeffs"),
    *("thin_prism_coeffs", "ftheta_coeffs", "rolling_shutter", "viewmats_rs"),
)

NEXT = (
    *("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks", "width", "height"),
    *("near_plane", "far_plane", "radius_clip", "eps2d", "sh_degree", "packed", "tile_size", "backgrounds"),
    *("render_mode", "sparse_grad", "absgrad", "rasterize_mode", "distributed", "camera_model", "segmented"),
    *("covars", "with_ut", "with_eval3d", "macro_tile", "return_normals", "global_z_order", "rays"),
    *("radial_coeffs", "tangential_coeffs", "thin_prism_coeffs", "ftheta_coeffs", "lidar_coeffs"),
    *("external_distortion_coeffs", "rolling_shutter", "viewmats_rs", "ut_params", "extra_signals"),
    *("extra_signals_sh_degree", "renderer_config"),
)

POSITIONAL = 9
"""As many are passed by position, means to height: they stand first, in this order, in both."""
