/* Prints the words that it hears. For boards with a digital microphone at the node
 * label `dmic_dev`; elsewhere, hand 16 kHz mono samples to kws_push from wherever they
 * come. */
#include <kws.h>
#include <kws_model.h>
#include <zephyr/audio/dmic.h>
#include <zephyr/kernel.h>
#include <zephyr/sys/printk.h>

#define MICROPHONE DT_NODELABEL(dmic_dev)
#if DT_NODE_HAS_COMPAT(MICROPHONE, nordic_nrf_pdm)
#include <hal/nrf_pdm.h>
BUILD_ASSERT(DT_ENUM_IDX(MICROPHONE, clock_source) != 0,
             "PCLK32M is up to 8 % off: clock-source = \"PCLK32M_HFXO\" in an overlay");
#endif

/* Blocks of 10 ms. */
#define RATE        16000
#define BLOCK_BYTES (RATE / 100 * sizeof(int16_t))

K_MEM_SLAB_DEFINE_STATIC(blocks, BLOCK_BYTES, 8, 4);

static const struct device *const microphone = DEVICE_DT_GET(MICROPHONE);
static K_SEM_DEFINE(started, 0, 1);

/* Only moves samples, so that none are lost while the network runs. A driver that finds
 * no free block stops, and stays so: then it is started again. */
static void listen(void *a, void *b, void *c) {
  ARG_UNUSED(a);
  ARG_UNUSED(b);
  ARG_UNUSED(c);
  k_sem_take(&started, K_FOREVER);
  for (;;) {
    void *block;
    size_t bytes;
    if (dmic_read(microphone, 0, &block, &bytes, 1000) == 0) {
      kws_push(block, bytes / sizeof(int16_t));
      k_mem_slab_free(&blocks, block);
      continue;
    }
    printk("audio was lost: the microphone is started again\n");
    (void)dmic_trigger(microphone, DMIC_TRIGGER_STOP);
    k_msleep(10); /* an error may come at once: leave the processor to others */
    (void)dmic_trigger(microphone, DMIC_TRIGGER_START);
  }
}

K_THREAD_DEFINE(listener, 1024, listen, NULL, NULL, NULL, -1, 0, 0);

/* The driver's own gain on an nRF is 0 dB, at which a microphone at arm's length is
 * nearly silent. Zephyr's API has none in common: it is set in the register, in steps
 * of half a decibel from -20 dB (0) to +20 dB (0x50). */
static void set_gain(void) {
#if DT_NODE_HAS_COMPAT(MICROPHONE, nordic_nrf_pdm)
  nrf_pdm_gain_set((NRF_PDM_Type *)DT_REG_ADDR(MICROPHONE), 0x50, 0x50);
#endif
}

static int start(void) {
  struct pcm_stream_cfg stream = {
      .pcm_rate = RATE,
      .pcm_width = 16,
      .block_size = BLOCK_BYTES,
      .mem_slab = &blocks,
  };
  struct dmic_cfg config = {
      .io = {.min_pdm_clk_freq = 1000000,
             .max_pdm_clk_freq = 3500000,
             .min_pdm_clk_dc = 40,
             .max_pdm_clk_dc = 60},
      .streams = &stream,
      .channel = {.req_num_streams = 1,
                  .req_num_chan = 1,
                  .req_chan_map_lo = dmic_build_channel_map(0, 0, PDM_CHAN_LEFT)},
  };
  if (!device_is_ready(microphone)) return -1;
  if (dmic_configure(microphone, &config) != 0) return -1;
  set_gain();
  return dmic_trigger(microphone, DMIC_TRIGGER_START);
}

int main(void) {
  if (kws_init() != KWS_OK || kws_selftest() != KWS_OK) {
    printk("the self-test failed\n");
    return 0;
  }
  if (start() != 0) {
    printk("there is no microphone\n");
    return 0;
  }
  k_sem_give(&started);
  for (;;) {
    kws_event_t event;
    const kws_poll_t done = kws_poll(&event);
    if (done == KWS_HEARD) {
      printk("%s %u\n", kws_model_info.labels[event.label],
             (unsigned)event.score * 100 / 32767);
    }
    if (done == KWS_IDLE) k_msleep(10);
  }
}
