/* Second stage of the RP2040's boot, the first 256 bytes of flash.
 *
 * The boot ROM copies these bytes to RAM, compares the CRC-32 (polynomial 04c11db7,
 * start ffffffff, not reflected) of the first 252 with the last 4, and jumps here. Any
 * SPI flash understands what is set up: the serial read command 03h. That is slow, but
 * flash is only read until start-up has copied the firmware to RAM.
 */
  .syntax unified
  .thumb
  .section .boot, "ax"
  .balign 4
  ldr r3, ssi
  movs r1, #0
  str r1, [r3, #0x08]   /* SSIENR: off, to be configured */
  movs r1, #2
  str r1, [r3, #0x14]   /* BAUDR: half of clk_sys, which is at most 12 MHz now */
  ldr r1, ctrlr0
  str r1, [r3, #0x00]   /* CTRLR0 */
  movs r1, #0
  str r1, [r3, #0x04]   /* CTRLR1: one frame */
  ldr r2, spi_ctrlr0
  ldr r1, spi_format
  str r1, [r2]          /* SPI_CTRLR0 */
  movs r1, #1
  str r1, [r3, #0x08]   /* SSIENR: on; flash is memory at 0x10000000 from now on */
  ldr r0, vectors
  ldr r1, [r0, #0]
  ldr r2, [r0, #4]
  msr msp, r1
  bx r2
  .balign 4
ssi:
  .word 0x18000000
ctrlr0:
  .word 0x001f0300      /* standard SPI, frames of 32 bits, EEPROM read */
spi_ctrlr0:
  .word 0x180000f4
spi_format:
  .word 0x03000218      /* command 03h of 8 bits, 24 bits of address, one wire */
vectors:
  .word 0x10000100
  .org 252
  .word 0x1269eed0      /* the CRC; tests/test_uf2.py computes it */
