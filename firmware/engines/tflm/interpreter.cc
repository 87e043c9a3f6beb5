/* The network by TensorFlow Lite Micro's interpreter. See kws_tflm.h. */
#include <cstring>
#include <new>

#include "kws_board.h"
#include "kws_tflm.h"
#include "tensorflow/lite/micro/micro_allocator.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_log.h"
#include "tensorflow/lite/micro/micro_resource_variable.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace {

/* Made in place: a static object's destructor would bring exit handlers. */
alignas(tflite::MicroInterpreter) uint8_t storage[sizeof(tflite::MicroInterpreter)];
tflite::MicroInterpreter *interpreter = nullptr;
int8_t *input = nullptr;
const int8_t *output = nullptr;

bool fits(const TfLiteTensor *tensor, uint32_t elements) {
  return tensor != nullptr && tensor->type == kTfLiteInt8 && tensor->bytes == elements;
}

}  // namespace

extern "C" int kws_tflm_init(void) {
  if (output != nullptr) return 0;
  const tflite::Model *model = tflite::GetModel(kws_tflm_model.model);
  if (model->version() != TFLITE_SCHEMA_VERSION) {
    MicroPrintf("the model's schema is %d, expected %d",
                static_cast<int>(model->version()), TFLITE_SCHEMA_VERSION);
    return 1;
  }
  const tflite::MicroOpResolver *operators = kws_tflm_operators();
  if (operators == nullptr) return 1;
  tflite::MicroAllocator *allocator =
      tflite::MicroAllocator::Create(kws_tflm_model.arena, kws_tflm_model.arena_bytes);
  if (allocator == nullptr) return 1;
  tflite::MicroResourceVariables *variables = nullptr;
  if (kws_tflm_model.variables > 0) {
    variables =
        tflite::MicroResourceVariables::Create(allocator, kws_tflm_model.variables);
  }
  interpreter =
      new (storage) tflite::MicroInterpreter(model, *operators, allocator, variables);
  if (interpreter->AllocateTensors() != kTfLiteOk) {
    MicroPrintf("the model cannot be set up in an arena of %d bytes",
                static_cast<int>(kws_tflm_model.arena_bytes));
    return 1;
  }
  if (!fits(interpreter->input(0), kws_tflm_model.inputs) ||
      !fits(interpreter->output(0), kws_tflm_model.outputs)) {
    MicroPrintf("the model's input or output is not what was emitted");
    return 1;
  }
  MicroPrintf("arena: %d of %d bytes used",
              static_cast<int>(interpreter->arena_used_bytes()),
              static_cast<int>(kws_tflm_model.arena_bytes));
  input = interpreter->input(0)->data.int8;
  output = interpreter->output(0)->data.int8;
  return 0;
}

/* Fills each variable with its zero point; an interpreter of which nothing is kept has
 * none. */
extern "C" void kws_tflm_reset(void) {
  if (interpreter != nullptr && interpreter->Reset() != kTfLiteOk) {
    kws_say("error", "reason=invoke");
    kws_board_exit(KWS_EXIT_MODEL);
  }
}

/* Checked in kws_tflm_init: kernels of a planned int8 graph do not fail. Should one,
 * its logits are not handed on; TFLM has said why. */
extern "C" void kws_tflm_run(const int8_t *features, int8_t *logits) {
  std::memcpy(input, features, kws_tflm_model.inputs);
  if (interpreter->Invoke() != kTfLiteOk) {
    kws_say("error", "reason=invoke");
    kws_board_exit(KWS_EXIT_MODEL);
  }
  std::memcpy(logits, output, kws_tflm_model.outputs);
}
