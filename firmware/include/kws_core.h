/* Which instructions this build may use: one of KWS_CORE_PORTABLE, KWS_CORE_DSP and
 * KWS_CORE_MVE, as the compiler's flags say or as defined by hand. */
#ifndef KWS_CORE_H
#define KWS_CORE_H

#if defined(__SIZEOF_INT__) && __SIZEOF_INT__ < 4
#error "kws needs an int of 32 bits"
#endif

/* Bytes are loaded as words, and their places are little-endian's; only the portable
 * kernels don't care. */
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#if defined(KWS_CORE_DSP) || defined(KWS_CORE_MVE) || defined(__ARM_ARCH_6M__)
#error "kws runs big-endian by its portable kernels alone, on no Armv6-M"
#elif !defined(KWS_CORE_PORTABLE)
#define KWS_CORE_PORTABLE 1
#endif
#endif

#if !defined(KWS_CORE_PORTABLE) && !defined(KWS_CORE_DSP) && !defined(KWS_CORE_MVE)
#if defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 1)
#define KWS_CORE_MVE 1
#elif defined(__ARM_FEATURE_DSP) && __ARM_ARCH >= 7 /* older ones lack some of them */
#define KWS_CORE_DSP 1
#else
#define KWS_CORE_PORTABLE 1
#endif
#endif

/* Without the instructions (a PC tests the kernels that way) the same results come at
 * several times the portable kernels' cost. */
#if defined(__ARM_ARCH_PROFILE) && __ARM_ARCH_PROFILE == 'M'
#if defined(KWS_CORE_DSP) && !defined(__ARM_FEATURE_DSP)
#error "KWS_CORE_DSP, but no DSP instructions: kws emit RUN --core portable"
#endif
#if defined(KWS_CORE_MVE) && !(defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 1))
#error "KWS_CORE_MVE, but no Helium: kws emit RUN --core dsp   (or portable)"
#endif
#endif

#endif
