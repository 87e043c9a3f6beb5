/* What TFLM and the C++ compiler expect of a platform, without a C library's files and
 * heap. Messages go to the board's text output, one `kws tflm ...` line each. */
#include <cstdarg>
#include <cstddef>
#include <cstdint>

#include "kws_board.h"
#include "tensorflow/lite/micro/debug_log.h"

namespace {

/* Text of limited length. */
struct Line {
  char *text;
  size_t size, length;

  void put(char c) {
    if (length + 1 < size) text[length++] = c;
  }
  void put(const char *more) {
    for (; *more != '\0'; ++more) put(*more);
  }
  void put(uint32_t value, uint32_t base) {
    char digits[10];
    size_t count = 0;
    do {
      digits[count++] = "0123456789abcdef"[value % base];
      value /= base;
    } while (value > 0);
    while (count > 0) put(digits[--count]);
  }
};

/* %s %c %d %i %u %x and lengths of 32 bits, as TFLM's messages have them. */
size_t format_to(char *to, size_t size, const char *format, va_list args) {
  Line line = {to, size, 0};
  for (; *format != '\0'; ++format) {
    if (*format != '%') {
      if (*format != '\r' && *format != '\n') line.put(*format);
      continue;
    }
    do {
      ++format;
    } while (*format == 'l' || *format == 'z' || (*format >= '0' && *format <= '9'));
    if (*format == '\0') break;
    if (*format == 's') {
      const char *text = va_arg(args, const char *);
      line.put(text == nullptr ? "(null)" : text);
    } else if (*format == 'c') {
      line.put(static_cast<char>(va_arg(args, int)));
    } else if (*format == 'd' || *format == 'i') {
      const int32_t value = va_arg(args, int32_t);
      if (value < 0) line.put('-');
      line.put(
          value < 0 ? 0u - static_cast<uint32_t>(value) : static_cast<uint32_t>(value),
          10);
    } else if (*format == 'u') {
      line.put(va_arg(args, uint32_t), 10);
    } else if (*format == 'x' || *format == 'p') {
      line.put(va_arg(args, uint32_t), 16);
    } else {
      line.put(*format);
    }
  }
  if (size > 0) to[line.length] = '\0';
  return line.length;
}

}  // namespace

extern "C" {

void DebugLog(const char *format, va_list args) {
  char text[200];
  /* TFLM ends each message with a call of its own for the line's end. */
  if (format_to(text, sizeof text, format, args) == 0) return;
  kws_board_write("kws tflm ");
  kws_board_write(text);
  kws_board_write("\n");
}

int DebugVsnprintf(char *buffer, size_t size, const char *format, va_list args) {
  return static_cast<int>(format_to(buffer, size, format, args));
}

[[noreturn]] void abort(void) {
  kws_board_write("kws error reason=abort\n");
  kws_board_exit(KWS_EXIT_FAULT);
}

void __cxa_pure_virtual(void) {
  abort();
}

/* newlib's assert; its own would bring stdio and a heap. */
[[noreturn]] void __assert_func(const char *file, int line, const char *,
                                const char *) {
  char text[200];
  Line where = {text, sizeof text, 0};
  where.put("kws error reason=assert file=");
  where.put(file);
  where.put(" line=");
  where.put(static_cast<uint32_t>(line), 10);
  where.put('\n');
  text[where.length] = '\0';
  kws_board_write(text);
  kws_board_exit(KWS_EXIT_FAULT);
}
}

/* Nothing is ever deleted; virtual destructors name these. */
void operator delete(void *) noexcept {}
void operator delete(void *, size_t) noexcept {}
