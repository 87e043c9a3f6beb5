// Run a UF2 image in rp2040js and print what it says on UART0.
//
//   node run.mjs IMAGE.uf2 SECONDS [AUDIO.raw [HALT FROM BYTES]]
//
// SECONDS of the chip's time at most; AUDIO is 16 kHz int16, played to ADC0 from the
// moment that the firmware starts converting, and with its end the run ends. After HALT
// seconds the core stands still for 0.2 s, as under a debugger; what changes in RAM
// meanwhile, but for BYTES from FROM, is told. With STANDS_STILL in the environment the
// converter stops at the audio's end, and the run goes on. With NO_CRYSTAL in the environment the
// crystal does not start. A line SEND in the environment comes in after a second, once. With
// HANDLER, an interrupt handler's address, the most instructions that it has taken are told.
import { readFileSync } from "node:fs";
import { ConsoleLogger, LogLevel, RP2040 } from "rp2040js";

const [image, seconds, audio, halt, from, bytes] = process.argv.slice(2);
const chip = new RP2040();
chip.logger = new ConsoleLogger(LogLevel.Error, true);

const uf2 = readFileSync(image);
for (let at = 0; at < uf2.length; at += 512) {
  const address = uf2.readUInt32LE(at + 12) - 0x10000000;
  chip.flash.set(uf2.subarray(at + 32, at + 32 + uf2.readUInt32LE(at + 16)), address);
}
// The emulator's transmitter takes any number of bytes at once. Here a byte takes its ten
// bits' time, 32 wait at most, and the interrupt comes where half of them are gone.
const uart = chip.uart[0];
const outgoing = [];
const BYTE_NANOS = 86806;
const transmitted = chip.clock.createAlarm(() => {
  process.stdout.write(Buffer.of(outgoing.shift()));
  if (outgoing.length > 0) transmitted.schedule(BYTE_NANOS);
  uart.checkInterrupts();
});
uart.onByte = (byte) => {
  if (outgoing.length >= 32) throw new Error("a byte was written to a full FIFO");
  outgoing.push(byte);
  if (outgoing.length === 1) transmitted.schedule(BYTE_NANOS);
  uart.checkInterrupts();
};
Object.defineProperty(uart, "flags", {
  get: () => (outgoing.length ? 1 << 3 : 1 << 7) | (outgoing.length >= 32 ? 1 << 5 : 0) | (uart.rxFIFO.empty ? 1 << 4 : 0),
});
uart.checkInterrupts = () => {
  uart.interruptStatus = outgoing.length <= 16 ? 1 << 5 : 0;
  if (!uart.rxFIFO.empty) uart.interruptStatus |= 1 << 4;
  chip.setInterrupt(uart.irq, (uart.interruptStatus & uart.interruptMask) !== 0);
};
if (process.env.NO_CRYSTAL) chip.peripherals[0x40024].readUint32 = () => 0;

// Four conversions a sample, straight lines between samples.
let conversions = 0;
let done = false;
if (audio !== undefined) {
  const bytes = readFileSync(audio);
  const pcm = new Int16Array(bytes.buffer, bytes.byteOffset, bytes.length >> 1);
  chip.adc.onADCRead = () => {
    const at = conversions >> 2;
    const part = (conversions & 3) / 4;
    conversions++;
    done = at + 1 >= pcm.length;
    if (done && process.env.STANDS_STILL) {
      done = false; // the converter is stuck: no sample comes any more
      return;
    }
    const sample = done ? 0 : pcm[at] * (1 - part) + pcm[at + 1] * part;
    chip.adc.channelValues[0] = 2048 + Math.round(sample / 16);
    chip.adc.currentChannel = 0;
    chip.adc.sampleAlarm.schedule(chip.adc.sampleTime * 1000);
  };
}

// The boot ROM is not emulated: it would check boot2 and jump to it.
chip.core.PC = 0x10000000;
chip.core.SP = 0x20042000;
// The watchdog resets the core; what else it resets, the firmware resets at its start.
let restart = false;
const watchdog = chip.peripherals[0x40058];
watchdog.onWatchdogTrigger = () => {
  watchdog.writeUint32(0, 0); // a reset stops it
  process.stdout.write("\nreset by the watchdog\n");
  restart = true;
};
const nanosPerCycle = 8;
const end = Number(seconds) * 1e9;

function standStill() {
  const before = chip.sram.slice();
  const start = Number(from) - 0x20000000;
  const stop = start + Number(bytes);
  const resume = chip.clock.nanos + 0.2e9;
  while (chip.clock.nanos < resume) chip.clock.tick(chip.clock.nanosToNextAlarm);
  let inside = 0;
  let outside = 0;
  chip.sram.forEach((byte, at) => {
    if (byte === before[at]) return;
    if (at >= start && at < stop) inside++;
    else outside++;
  });
  process.stdout.write(`\nhalted: ${inside} bytes inside, ${outside} outside\n`);
}

let halted = halt === undefined;
let told = process.env.SEND === undefined;
const handler = Number(process.env.HANDLER);
let count = 0;
let most = 0;
while (chip.clock.nanos < end && !done) {
  // Not while it sleeps: the emulator would wake it, and stack for its interrupt.
  if (!halted && !chip.core.waiting && chip.clock.nanos > Number(halt) * 1e9) {
    halted = true;
    standStill();
  }
  if (!told && chip.clock.nanos > 1e9) {
    told = true;
    for (const byte of Buffer.from(`${process.env.SEND}\n`)) uart.feedByte(byte);
  }
  if (restart) {
    restart = false;
    chip.core.waiting = false;
    chip.core.PC = 0x10000000;
    chip.core.SP = 0x20042000;
  }
  if (chip.core.waiting) {
    if (chip.clock.nextAlarm === null) break; // it sleeps for good
    chip.clock.tick(chip.clock.nanosToNextAlarm);
  } else {
    if ((chip.core.PC & ~1) === handler) count = 0;
    if (chip.core.IPSR !== 0) most = Math.max(most, ++count);
    chip.clock.tick(chip.core.executeInstruction() * nanosPerCycle);
  }
}
if (handler) process.stdout.write(`\nthe handler takes ${most} instructions`);
process.stdout.write(`\nended after ${(chip.clock.nanos / 1e9).toFixed(2)} s\n`);
