/* FULLY_CONNECTED and BATCH_MATMUL of kws_delta.h, registered in TFLM's place.
 *
 * TFLM calls init once for each node, in the graph's order: the i-th call of a kind is
 * for the i-th entry of its table in kws_tflm_model. Where the entry has no product,
 * the node is TFLM's own kernel, with what that kernel keeps behind `stock`.
 */
#include <cstddef>
#include <cstring>

#include "kws_tflm.h"
#include "tensorflow/lite/c/builtin_op_data.h"
#include "tensorflow/lite/micro/kernels/batch_matmul.h"
#include "tensorflow/lite/micro/kernels/fully_connected.h"
#include "tensorflow/lite/micro/kernels/kernel_util.h"
#include "tensorflow/lite/micro/micro_log.h"

namespace {

template <typename Entry>
struct Node {
  const Entry *entry; /* nullptr: stock */
  void *stock;        /* user_data of TFLM's kernel */
  int state, scratch; /* buffers in the arena */
};

/* What the two kinds have in common. Kind: Entry, table(), stock(), prepare(), run().
 */
template <typename Kind>
struct Kernel {
  using Entry = typename Kind::Entry;
  using ThisNode = Node<Entry>;

  static int next;

  static ThisNode *node_of(TfLiteNode *node) {
    return static_cast<ThisNode *>(node->user_data);
  }

  static void *init(TfLiteContext *context, const char *buffer, size_t length) {
    void *memory = context->AllocatePersistentBuffer(context, sizeof(ThisNode));
    if (memory == nullptr) return nullptr;
    ThisNode *made = static_cast<ThisNode *>(memory);
    *made = {nullptr, nullptr, -1, -1};
    if (next < Kind::count()) {
      const Entry *entry = Kind::table() + next;
      if (entry->product != nullptr) made->entry = entry;
    }
    ++next;
    if (made->entry == nullptr && Kind::stock().init != nullptr) {
      made->stock = Kind::stock().init(context, buffer, length);
    }
    return made;
  }

  /* TFLM's own kernel finds its own user_data. */
  static TfLiteStatus run_stock(TfLiteStatus (*function)(TfLiteContext *, TfLiteNode *),
                                TfLiteContext *context, TfLiteNode *node) {
    ThisNode *made = node_of(node);
    node->user_data = made->stock;
    const TfLiteStatus status = function(context, node);
    node->user_data = made;
    return status;
  }

  static TfLiteStatus prepare(TfLiteContext *context, TfLiteNode *node) {
    TF_LITE_ENSURE(context, node->user_data != nullptr);
    ThisNode *made = node_of(node);
    if (made->entry == nullptr) {
      return run_stock(Kind::stock().prepare, context, node);
    }
    return Kind::prepare(context, node, made);
  }

  static TfLiteStatus invoke(TfLiteContext *context, TfLiteNode *node) {
    ThisNode *made = node_of(node);
    if (made->entry == nullptr) return run_stock(Kind::stock().invoke, context, node);
    Kind::run(context, node, made);
    return kTfLiteOk;
  }

  static const TFLMRegistration &registration() {
    static TFLMRegistration mine;
    mine = tflite::micro::RegisterOp(init, prepare, invoke);
    next = 0;
    return mine;
  }
};

template <typename Kind>
int Kernel<Kind>::next = 0;

bool holds(const TfLiteEvalTensor *tensor, int elements) {
  return tensor != nullptr && tensor->type == kTfLiteInt8 &&
         tflite::micro::GetTensorShape(tensor).FlatSize() == elements;
}

const int8_t *input(TfLiteContext *context, const TfLiteNode *node, int index) {
  return tflite::micro::GetTensorData<int8_t>(
      tflite::micro::GetEvalInput(context, node, index));
}

int8_t *output(TfLiteContext *context, const TfLiteNode *node) {
  return tflite::micro::GetTensorData<int8_t>(
      tflite::micro::GetEvalOutput(context, node, 0));
}

struct FullyConnected {
  using Entry = kws_tflm_fully_connected_t;
  static const Entry *table() {
    return kws_tflm_model.fully_connected;
  }
  static int count() {
    return kws_tflm_model.fully_connected_count;
  }
  static TFLMRegistration stock() {
    return tflite::Register_FULLY_CONNECTED();
  }

  static TfLiteStatus prepare(TfLiteContext *context, TfLiteNode *node,
                              Node<Entry> *made) {
    const kws_fully_connected_t &product = made->entry->product->product;
    const int inputs = product.inputs, outputs = product.outputs;
    const int rows = made->entry->rows;
    TF_LITE_ENSURE(context,
                   holds(tflite::micro::GetEvalInput(context, node, 0), rows * inputs));
    TF_LITE_ENSURE(context, holds(tflite::micro::GetEvalInput(context, node, 1),
                                  outputs * inputs));
    TF_LITE_ENSURE(
        context, holds(tflite::micro::GetEvalOutput(context, node, 0), rows * outputs));
    const size_t scratch = product.weights == nullptr
                               ? KWS_DELTA_FULLY_CONNECTED_SCRATCH_BYTES(inputs)
                               : KWS_DELTA_FULLY_CONNECTED_DENSE_SCRATCH_BYTES(inputs);
    TF_LITE_ENSURE_STATUS(context->RequestScratchBufferInArena(
        context, KWS_DELTA_FULLY_CONNECTED_STATE_BYTES(inputs, outputs), &made->state));
    return context->RequestScratchBufferInArena(context, scratch, &made->scratch);
  }

  static void run(TfLiteContext *context, TfLiteNode *node, const Node<Entry> *made) {
    const Entry &entry = *made->entry;
    *entry.sent = 0;
    kws_delta_fully_connected_s8(
        entry.product, input(context, node, 0), 1, 0, entry.rows, output(context, node),
        entry.product->product.outputs, 1,
        context->GetScratchBuffer(context, made->state),
        context->GetScratchBuffer(context, made->scratch), entry.sent);
  }
};

struct BatchMatMul {
  using Entry = kws_tflm_batch_matmul_t;
  static const Entry *table() {
    return kws_tflm_model.batch_matmul;
  }
  static int count() {
    return kws_tflm_model.batch_matmul_count;
  }
  static TFLMRegistration stock() {
    return tflite::Register_BATCH_MATMUL();
  }

  static TfLiteStatus prepare(TfLiteContext *context, TfLiteNode *node,
                              Node<Entry> *made) {
    const kws_delta_batch_matmul_t &product = *made->entry->product;
    const int rows = product.rows, inner = product.inner, columns = product.columns;
    TF_LITE_ENSURE(context,
                   holds(tflite::micro::GetEvalInput(context, node, 0), rows * inner));
    TF_LITE_ENSURE(
        context, holds(tflite::micro::GetEvalInput(context, node, 1), inner * columns));
    TF_LITE_ENSURE(
        context, holds(tflite::micro::GetEvalOutput(context, node, 0), rows * columns));
    const auto *options =
        static_cast<const TfLiteBatchMatMulParams *>(node->builtin_data);
    TF_LITE_ENSURE(context, options != nullptr && !options->adj_x &&
                                options->adj_y == (made->entry->transposed != 0));
    TF_LITE_ENSURE_STATUS(context->RequestScratchBufferInArena(
        context, KWS_DELTA_BATCH_MATMUL_STATE_BYTES(inner, columns), &made->state));
    if (!made->entry->transposed && KWS_DELTA_FLIP == 0) return kTfLiteOk;
    return context->RequestScratchBufferInArena(
        context, static_cast<size_t>(inner) * product.stride, &made->scratch);
  }

  static void run(TfLiteContext *context, TfLiteNode *node, const Node<Entry> *made) {
    const Entry &entry = *made->entry;
    const kws_delta_batch_matmul_t &product = *entry.product;
    const int8_t *b = input(context, node, 1);
    if (entry.transposed) {
      int8_t *keys =
          static_cast<int8_t *>(context->GetScratchBuffer(context, made->scratch));
      kws_transpose_s8(b, product.columns, product.inner, keys, product.stride);
      hold_keys(entry, keys);
      b = keys;
    } else if (KWS_DELTA_FLIP != 0) {
      const int32_t bytes = product.inner * product.stride;
      int8_t *values =
          static_cast<int8_t *>(context->GetScratchBuffer(context, made->scratch));
      std::memcpy(values, b, static_cast<size_t>(bytes));
      kws_delta_flip(values, bytes);
      b = values;
    }
    *entry.sent = 0;
    kws_delta_batch_matmul_s8(
        &product, input(context, node, 0), b, output(context, node),
        context->GetScratchBuffer(context, made->state), entry.sent);
  }

  /* Replaces K by what its encoding holds, and clears the padding. */
  static void hold_keys(const Entry &entry, int8_t *keys) {
    kws_delta_attention_t attention = {};
    attention.attention.tokens = entry.product->columns;
    attention.attention.heads = 1;
    attention.attention.head_dim = entry.product->inner;
    attention.key_threshold = entry.key_threshold;
    attention.dense_rows = entry.product->dense_rows;
    kws_delta_attention_sent_t sent = {};
    kws_delta_attention_prepare(&attention, keys, nullptr, &sent);
    if (entry.key_sent != nullptr) *entry.key_sent = sent.key;
  }
};

}  // namespace

const TFLMRegistration &kws_tflm_fully_connected() {
  return Kernel<FullyConnected>::registration();
}

const TFLMRegistration &kws_tflm_batch_matmul() {
  return Kernel<BatchMatMul>::registration();
}
