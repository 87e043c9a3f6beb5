/* Which instructions this build may use: one of KWS_CORE_PORTABLE, KWS_CORE_DSP and
 * KWS_CORE_MVE, as the compiler's flags say or as defined by hand. */
#ifndef KWS_CORE_H
#define KWS_CORE_H

#if !defined(KWS_CORE_PORTABLE) && !defined(KWS_CORE_DSP) && !defined(KWS_CORE_MVE)
#if defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 1)
#define KWS_CORE_MVE 1
#elif defined(__ARM_FEATURE_DSP)
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
