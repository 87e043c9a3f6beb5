/* What TFLM and the C++ compiler expect of a platform, without a C library's files and
 * heap. Messages go to the board's text output, one `kws tflm ...` line each. */
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstring>

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
  void put(uint64_t value, uint32_t base) {
    char digits[20];
    size_t count = 0;
    do {
      digits[count++] = "0123456789abcdef"[value % base];
      value /= base;
    } while (value > 0);
    while (count > 0) put(digits[--count]);
  }
  void put_signed(int64_t value) {
    if (value < 0) put('-');
    put(value < 0 ? 0u - static_cast<uint64_t>(value) : static_cast<uint64_t>(value),
        10);
  }
  /* Six digits; what is too large for 32 bits is not of a model's scales. */
  void put_fraction(double value) {
    if (value != value) return put("nan");
    if (value < 0) {
      put('-');
      value = -value;
    }
    if (value >= 4294967295.0) return put("large");
    const auto millionths = static_cast<uint64_t>(value * 1e6 + 0.5);
    put(millionths / 1000000, 10);
    put('.');
    for (uint32_t place = 100000; place > 0; place /= 10) {
      put(static_cast<char>('0' + millionths / place % 10));
    }
  }
};

enum Length { kInt, kLong, kLongLong, kSize };

int64_t take_signed(Length length, va_list *args) {
  switch (length) {
    case kLong:
      return va_arg(*args, long);
    case kLongLong:
      return va_arg(*args, long long);
    case kSize:
      return va_arg(*args, ptrdiff_t);
    default:
      return va_arg(*args, int);
  }
}

uint64_t take_unsigned(Length length, va_list *args) {
  switch (length) {
    case kLong:
      return va_arg(*args, unsigned long);
    case kLongLong:
      return va_arg(*args, unsigned long long);
    case kSize:
      return va_arg(*args, size_t);
    default:
      return va_arg(*args, unsigned);
  }
}

/* C's conversions but for width, precision and flags, which are passed over: every
 * argument is taken in its length, so that the ones after it are themselves. */
size_t format_to(char *to, size_t size, const char *format, va_list *args) {
  Line line = {to, size, 0};
  for (; *format != '\0'; ++format) {
    if (*format != '%') {
      if (*format != '\r' && *format != '\n') line.put(*format);
      continue;
    }
    Length length = kInt;
    for (++format; *format != '\0' && std::strchr("0123456789.-+ #*hlzjt", *format);
         ++format) {
      if (*format == '*') (void)va_arg(*args, int);
      if (*format == 'l') length = length == kInt ? kLong : kLongLong;
      if (*format == 'z' || *format == 't') length = kSize;
      if (*format == 'j') length = kLongLong;
    }
    switch (*format) {
      case '\0':
        --format; /* the string ended within a conversion */
        break;
      case 's': {
        const char *text = va_arg(*args, const char *);
        line.put(text == nullptr ? "(null)" : text);
        break;
      }
      case 'c':
        line.put(static_cast<char>(va_arg(*args, int)));
        break;
      case 'd':
      case 'i':
        line.put_signed(take_signed(length, args));
        break;
      case 'u':
        line.put(take_unsigned(length, args), 10);
        break;
      case 'x':
      case 'X':
        line.put(take_unsigned(length, args), 16);
        break;
      case 'p':
        line.put(reinterpret_cast<uintptr_t>(va_arg(*args, void *)), 16);
        break;
      case 'f':
      case 'e':
      case 'g':
        line.put_fraction(va_arg(*args, double));
        break;
      default:
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
  va_list mine;
  va_copy(mine, args);
  const size_t length = format_to(text, sizeof text, format, &mine);
  va_end(mine);
  /* TFLM ends each message with a call of its own for the line's end. */
  if (length == 0) return;
  kws_say("tflm", text);
}

int DebugVsnprintf(char *buffer, size_t size, const char *format, va_list args) {
  va_list mine;
  va_copy(mine, args);
  const size_t length = format_to(buffer, size, format, &mine);
  va_end(mine);
  return static_cast<int>(length);
}

[[noreturn]] void abort(void) {
  kws_say("error", "reason=abort");
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
  where.put("reason=assert file=");
  where.put(file);
  where.put(" line=");
  where.put(static_cast<uint64_t>(line), 10);
  text[where.length] = '\0';
  kws_say("error", text);
  kws_board_exit(KWS_EXIT_FAULT);
}
}

/* Nothing is ever deleted; virtual destructors name these. */
void operator delete(void *) noexcept {}
void operator delete(void *, size_t) noexcept {}
