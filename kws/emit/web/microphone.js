"use strict";

/* A microphone, for the script of a page that follows: app.js, record.js. */

/* Runs in the audio thread; its text becomes the worklet's module. */
function tapWorklet() {
  registerProcessor("tap", class extends AudioWorkletProcessor {
    constructor(options) {
      super();
      this.size = options.processorOptions.size;
      this.block = new Float32Array(this.size);
      this.fill = 0;
    }

    process([input]) {
      if (input.length === 0) return true;
      this.block.set(input[0], this.fill);
      this.fill += input[0].length;
      if (this.fill === this.size) {
        this.port.postMessage([this.block, currentTime], [this.block.buffer]);
        this.block = new Float32Array(this.size);
        this.fill = 0;
      }
      return true;
    }
  });
}

/* Open a microphone, the browser's own or one by its id. heard gets each block of `size`
 * samples, a multiple of 128, and the audio clock's time of its end. */
async function openMicrophone(size, heard, device) {
  if (!navigator.mediaDevices) throw new Error("This browser gives no microphone here.");
  // As the sound is: what a browser does for calls, no board does.
  const stream = await navigator.mediaDevices.getUserMedia({ audio: {
    channelCount: 1, echoCancellation: false, noiseSuppression: false,
    autoGainControl: false, ...(device ? { deviceId: { exact: device } } : {}) } });
  const context = new AudioContext();
  const track = stream.getTracks()[0];
  const close = () => {
    track.stop();
    context.close();
  };
  // Not a blob: a page that is a file may not load its own.
  const url = "data:text/javascript," + encodeURIComponent("(" + tapWorklet + ")()");
  try {
    await context.audioWorklet.addModule(url);
    await context.resume();
  } catch (error) {
    close();
    throw error;
  }
  const node = new AudioWorkletNode(context, "tap",
    { channelCount: 1, channelCountMode: "explicit", processorOptions: { size } });
  node.port.onmessage = ({ data: [block, time] }) => heard(block, time);
  context.createMediaStreamSource(stream).connect(node).connect(context.destination);
  return { context, track, close };
}
