"""cffi builder of kws.features._native: the firmware's features.c for Python.

setup.py runs it (`cffi_modules`) on `pip install`; nothing imports it at run time.
"""

from cffi import FFI

ffibuilder = FFI()
ffibuilder.cdef(
    """
    typedef struct kws_feature_spec {
      uint16_t window;
      uint16_t hop;
      uint16_t fft_size;
      uint8_t power;
      uint8_t mel_bins;
      uint16_t first_bin;
      uint32_t log_multiplier;
      int64_t log_offset;
      int8_t floor;
      const int32_t *windows;
      const uint8_t *order;
      const int32_t *twiddles;
      const int32_t *split;
      const uint8_t *segment_bins;
      const uint32_t *mel_weights;
      const uint16_t *log_table;
      const uint16_t *sqrt_table;
    } kws_feature_spec_t;

    void kws_features_clip(const kws_feature_spec_t *spec, const int16_t *samples,
                           size_t n, int8_t *out);
    """
)
ffibuilder.set_source(
    "kws.features._native",
    '#include "kws_features.h"',
    sources=["firmware/src/features.c"],
    include_dirs=["firmware/include"],
    depends=[
        "firmware/include/kws_core.h",
        "firmware/include/kws_features.h",
        "firmware/src/features_internal.h",
    ],
    extra_compile_args=["-std=c11", "-O3", "-Wall", "-Wextra"],
)
