// The C interface that Python calls through ctypes. Functions that return int return 0, or 1 where memory
// ran out; no exception leaves them. All arrays are dense, row-major, float32 (or another type
// where said); shapes are in the Python wrappers beside each call.
#pragma once

#include <cstdint>

// Constants of the compositing rule; they match gsplat 1.5.3. The Python side has the same ones in
// rasterizer/contract.py, and a test compares them.
#define FS_MIN_ALPHA (1.0f / 255.0f)      // a contribution below it is skipped
#define FS_MAX_ALPHA 0.999f               // opacity of one splat at one pixel is clamped to it
#define FS_MIN_TRANSMITTANCE 1e-4f        // a pixel ends before its transmittance would reach it
#define FS_TILE 16                        // pixels
