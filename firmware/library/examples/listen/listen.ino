/* Prints the words that it hears. For boards with a microphone that Arduino's PDM
 * library knows, such as the Nano 33 BLE Sense; elsewhere, hand 16 kHz mono samples to
 * kws_push from wherever they come. */
#include <PDM.h>
#include <kws.h>
#include <kws_model.h>

static int16_t samples[256];

/* Of the nRF52840's PDM block: steps of half a decibel from -20 dB (0) to +20 dB (80).
 * Arduino's own is 20, -10 dB, at which a voice at arm's length is nearly silent. Other
 * parts count in other units: there Arduino's gain stays. */
#if defined(ARDUINO_ARCH_NRF52840) || defined(NRF52840_XXAA)
#define GAIN 80
#endif

static void stop(const char *reason) {
  for (;;) {
    Serial.println(reason);
    delay(1000);
  }
}

/* Runs in an interrupt. */
static void on_audio() {
  int bytes; /* all of it: the library stops for good where something is left */
  while ((bytes = PDM.read(samples, sizeof samples)) > 0) {
    kws_push(samples, (size_t)bytes / sizeof samples[0]);
  }
}

void setup() {
  Serial.begin(115200);
  if (kws_init() != KWS_OK) stop("the model does not fit this library");
  if (kws_selftest() != KWS_OK) stop("the self-test failed");
  PDM.onReceive(on_audio);
#ifdef GAIN
  PDM.setGain(GAIN);
#endif
  if (!PDM.begin(1, 16000)) stop("there is no microphone");
}

void loop() {
  kws_event_t event;
  if (kws_poll(&event) == KWS_HEARD) {
    Serial.print(kws_model_info.labels[event.label]);
    Serial.print(" ");
    Serial.println(event.score / 32767.0);
  }
}
