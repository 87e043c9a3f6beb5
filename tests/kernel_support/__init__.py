"""Cases for the int8 kernels, with TFLM's answers, as C sources for host and QEMU."""
